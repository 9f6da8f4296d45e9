// An SSH server on github.com/gliderlabs/ssh, as its examples are: each session runs its command in "sh -c".
//
// It is given the path of a JSON file, as tests/support/asyncssh_server.py is; the passwords alone are used.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"

	"github.com/gliderlabs/ssh"
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
	server := &ssh.Server{
		Handler: run,
		PasswordHandler: func(context ssh.Context, given string) bool {
			for _, password := range settings.Users[context.User()].Passwords {
				if password == given {
					return true
				}
			}
			return false
		},
	}
	if err := server.SetOption(ssh.HostKeyPEM([]byte(settings.HostKey))); err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("{\"listening\": %d}\n", listener.Addr().(*net.TCPAddr).Port)
	panic(server.Serve(listener))
}

func run(session ssh.Session) {
	command := exec.Command("sh", "-c", session.RawCommand())
	command.Stdout, command.Stderr = session, session.Stderr()
	stdin, err := command.StdinPipe()
	if err != nil {
		session.Exit(255)
		return
	}
	go func() {
		io.Copy(stdin, session)
		stdin.Close()
	}()
	command.Run()
	session.Exit(command.ProcessState.ExitCode())
}
