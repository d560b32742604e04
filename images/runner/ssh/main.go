// Command labssh is the ssh server inside a run's pod. It has no socket: the portal starts it by the
// Kubernetes exec of one person's connection, its standard input and output are that connection, and it
// ends with it. It is one static program (CGO_ENABLED=0), so it runs in any image a user brings.
//
//	labssh        serve one connection on standard input and output
//
// It asks for no key and no password, and its host key lives as long as the connection. Both ends are
// proven before it starts: the portal has checked that the run belongs to the caller (munge or OIDC), the
// apiserver has authorised the exec under his name, and the bytes travel inside two TLS connections and
// the kubelet's. Whoever can start labssh can start any other program in the pod just as well.
//
// A session has the pod's user, the run's environment and working directory, and dies with the connection:
// labssh takes in the orphans of its sessions, so that it can end every process that came from them.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

func init() {
	// Children are to die with labssh (Pdeathsig), which the kernel ties to the thread that started them:
	// all are started by the main thread, which lives as long as the process.
	runtime.LockOSThread()
}

func main() {
	if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "usage: labssh\nserves one ssh connection on its standard input and output")
		os.Exit(2)
	}
	// Notify, not Ignore: what is ignored would stay ignored in the sessions.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)

	children := newChildren()
	done := make(chan error, 1)
	go func() { done <- serve(newStdio(), children) }()
	go func() {
		status := 0
		select {
		case <-ended:
		case err := <-done:
			if err != nil {
				fmt.Fprintf(os.Stderr, "labssh: %v\n", err)
				status = 1
			}
		}
		children.endAll()
		os.Exit(status)
	}()
	children.startLoop()
}
