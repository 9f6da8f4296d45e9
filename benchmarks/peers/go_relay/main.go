// A relay as one would write it in Go: Socket.IO by hand on gorilla/websocket, golang.org/x/crypto/ssh, one connection a
// host, made at first use and again after it was lost.  It has no journal, no log and no limits, and does not check host
// keys.  relayd is measured against it.
//
//	go_relay SERVER_URL PROXY_ID API_KEY_FILE
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/crypto/ssh"
)

type command struct {
	CommandID  string  `json:"commandId"`
	Host       string  `json:"host"`
	Port       int     `json:"port"`
	Username   string  `json:"username"`
	Password   string  `json:"password"`
	PrivateKey string  `json:"privateKey"`
	Command    string  `json:"command"`
	Timeout    float64 `json:"timeout"`
}

type result struct {
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	ExitCode int    `json:"exitCode"`
}

type commandResult struct {
	CommandID string `json:"commandId"`
	Result    result `json:"result"`
}

// host is one SSH server, with the connection to it.
type host struct {
	sync.Mutex
	client *ssh.Client
}

type relay struct {
	sync.Mutex
	hosts map[string]*host
	out   chan []byte
}

// client gives the connection for a command.
func (r *relay) client(c *command) (*ssh.Client, error) {
	address := fmt.Sprintf("%s:%d", c.Host, c.Port)
	r.Lock()
	h := r.hosts[c.Username+"@"+address]
	if h == nil {
		h = &host{}
		r.hosts[c.Username+"@"+address] = h
	}
	r.Unlock()
	h.Lock()
	defer h.Unlock()
	if h.client != nil {
		return h.client, nil
	}
	auth := []ssh.AuthMethod{ssh.Password(c.Password)}
	if c.PrivateKey != "" {
		signer, err := ssh.ParsePrivateKey([]byte(c.PrivateKey))
		if err != nil {
			return nil, err
		}
		auth = []ssh.AuthMethod{ssh.PublicKeys(signer)}
	}
	client, err := ssh.Dial("tcp", address, &ssh.ClientConfig{
		User: c.Username, Auth: auth, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	h.client = client
	go func() {
		client.Wait()
		h.Lock()
		h.client = nil
		h.Unlock()
	}()
	return client, nil
}

func (r *relay) run(c *command) (*result, error) {
	client, err := r.client(c)
	if err != nil {
		return nil, err
	}
	session, err := client.NewSession()
	if err != nil {
		return nil, err
	}
	defer session.Close()
	var stdout, stderr bytes.Buffer
	session.Stdout, session.Stderr = &stdout, &stderr
	if c.Timeout > 0 {
		timer := time.AfterFunc(time.Duration(c.Timeout)*time.Millisecond, func() { session.Close() })
		defer timer.Stop()
	}
	err = session.Run("cd / ; " + c.Command)
	var exit *ssh.ExitError
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitStatus()
	} else if err != nil {
		return nil, err
	}
	return &result{strings.TrimSpace(stdout.String()), strings.TrimSpace(stderr.String()), code}, nil
}

func (r *relay) execute(c *command) {
	done, err := r.run(c)
	if err != nil {
		done = &result{Stderr: err.Error(), ExitCode: 1}
	}
	body, _ := json.Marshal([]interface{}{"command_result", commandResult{c.CommandID, *done}})
	r.out <- append([]byte("42/proxy,"), body...)
}

// event takes a Socket.IO EVENT packet of the namespace: "ID[name, data]", the id only where an answer is wanted.
func (r *relay) event(packet []byte) {
	begin := bytes.IndexByte(packet, '[')
	if begin < 0 {
		return
	}
	var event []json.RawMessage
	var name string
	if json.Unmarshal(packet[begin:], &event) != nil || len(event) < 2 || json.Unmarshal(event[0], &name) != nil {
		return
	}
	if _, err := strconv.Atoi(string(packet[:begin])); err == nil {
		r.out <- []byte("43/proxy," + string(packet[:begin]) + "[{}]")
	}
	var c command
	if name == "execute_command" && json.Unmarshal(event[1], &c) == nil {
		go r.execute(&c)
	}
}

func main() {
	key, err := os.ReadFile(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	query := url.Values{
		"EIO": {"4"}, "transport": {"websocket"}, "proxyId": {os.Args[2]}, "apiKey": {strings.TrimSpace(string(key))},
	}
	address := "ws" + strings.TrimPrefix(os.Args[1], "http") + "/socket.io/?" + query.Encode()
	connection, _, err := websocket.DefaultDialer.Dial(address, nil)
	if err != nil {
		log.Fatal(err)
	}
	r := &relay{hosts: map[string]*host{}, out: make(chan []byte, 256)}
	go func() {
		for message := range r.out {
			if connection.WriteMessage(websocket.TextMessage, message) != nil {
				log.Fatal("the main server is gone")
			}
		}
	}()
	for {
		_, message, err := connection.ReadMessage()
		if err != nil {
			log.Fatal(err)
		}
		switch {
		case bytes.HasPrefix(message, []byte("42/proxy,")):
			r.event(message[len("42/proxy,"):])
		case message[0] == '0':
			r.out <- []byte("40/proxy,")
		case message[0] == '2':
			r.out <- []byte("3")
		case bytes.HasPrefix(message, []byte("44")):
			log.Fatal(string(message))
		}
	}
}
