package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// Signals (signal(7)): what is sent to barco is meant for the command.

// catchSignals has the kernel's signals queue up for forwardSignals, from the very start: a barco that dies of one leaves its
// cgroup behind. SIGPIPE is caught so that a narration that nobody reads any more ends nothing. Parent.
func catchSignals() <-chan os.Signal {
	signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE)
	signals := make(chan os.Signal, 8)
	for _, s := range []os.Signal{unix.SIGQUIT, unix.SIGABRT, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2} {
		if !signal.Ignored(s) { // nohup(1)
			signal.Notify(signals, s)
		}
	}
	return signals
}

// forwardSignals hands signals on to the command. Process 1 of a pid namespace ignores every signal that it has no handler for
// (pid_namespaces(7)), so the second one that asks for an end gets one. Parent.
func (c *container) forwardSignals(signals <-chan os.Signal) {
	for asked := 0; ; {
		s := (<-signals).(unix.Signal)
		if s != unix.SIGUSR1 && s != unix.SIGUSR2 {
			asked++
		}
		switch {
		case !c.hungUp(): // no execve yet: it is still barco, and nothing in it is worth a goodbye
			c.killer.Store(int32(s))
			c.process.Kill()
		case asked < 2:
			info("passing %s on to the command; a second one that asks for its end kills it", unix.SignalName(s))
			c.process.Signal(s)
		default:
			warn("%s is the second signal that asks for the end: killing the command", unix.SignalName(s))
			c.process.Kill()
		}
	}
}
