// An SSH server on golang.org/x/crypto/ssh, as programs write them: each command runs in "sh -c".
//
// It is given the path of a JSON file, as tests/support/asyncssh_server.py is; the passwords alone are used.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/crypto/ssh"
)

type config struct {
	HostKey string `json:"host_key"`
	Users   map[string]struct {
		Passwords []string `json:"passwords"`
	} `json:"users"`
}

func main() {
	text, err := os.ReadFile(os.Args[1])
	if err != nil {
		panic(err)
	}
	var settings config
	if err := json.Unmarshal(text, &settings); err != nil {
		panic(err)
	}
	server := &ssh.ServerConfig{
		PasswordCallback: func(meta ssh.ConnMetadata, given []byte) (*ssh.Permissions, error) {
			for _, password := range settings.Users[meta.User()].Passwords {
				if password == string(given) {
					return nil, nil
				}
			}
			return nil, errors.New("wrong password")
		},
	}
	key, err := ssh.ParsePrivateKey([]byte(settings.HostKey))
	if err != nil {
		panic(err)
	}
	server.AddHostKey(key)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("{\"listening\": %d}\n", listener.Addr().(*net.TCPAddr).Port)
	for {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go serve(connection, server)
	}
}

func serve(connection net.Conn, config *ssh.ServerConfig) {
	defer connection.Close()
	_, channels, requests, err := ssh.NewServerConn(connection, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		if offered.ChannelType() != "session" {
			offered.Reject(ssh.UnknownChannelType, "only sessions here")
			continue
		}
		channel, requests, err := offered.Accept()
		if err == nil {
			go session(channel, requests)
		}
	}
}

func session(channel ssh.Channel, requests <-chan *ssh.Request) {
	for request := range requests {
		if request.Type != "exec" {
			request.Reply(false, nil)
			continue
		}
		var ordered struct{ Command string }
		if err := ssh.Unmarshal(request.Payload, &ordered); err != nil {
			request.Reply(false, nil)
			continue
		}
		request.Reply(true, nil)
		go run(channel, ordered.Command)
	}
}

func run(channel ssh.Channel, text string) {
	defer channel.Close()
	command := exec.Command("sh", "-c", text)
	stdin, _ := command.StdinPipe()
	stdout, _ := command.StdoutPipe()
	stderr, _ := command.StderrPipe()
	if err := command.Start(); err != nil {
		return
	}
	go func() {
		io.Copy(stdin, channel)
		stdin.Close()
	}()
	var copies sync.WaitGroup
	copies.Add(2)
	go func() { io.Copy(channel, stdout); copies.Done() }()
	go func() { io.Copy(channel.Stderr(), stderr); copies.Done() }()
	copies.Wait()
	command.Wait()
	status := command.ProcessState.Sys().(syscall.WaitStatus)
	code := uint32(status.ExitStatus())
	if status.Signaled() {
		code = 128 + uint32(status.Signal())
	}
	channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{code}))
}
