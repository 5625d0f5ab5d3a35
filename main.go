// barco runs one command in a Linux container, and is written to be read.
//
// Start here: run, below, is the whole story as barco itself (the parent) lives it. The other half of it, what the
// container (the child) does before it becomes the command, is childStory in container.go. Every file after these two
// holds one kernel feature, or one lesson: conversation.go hostname.go mounts.go proc.go rootfs.go userns.go dev.go console.go network.go
// caps.go seccomp.go exec.go init.go cgroups.go signals.go.
//
// Chapter: docs/01-what-a-container-is.md
package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
)

// version is what `git describe` said when the Makefile built this binary.
var version = "unknown (not built by make)"

// Exit statuses of barco's own, as `docker run` has them; every other one is the command's.
const (
	statusBarcoFailed   = 125
	statusNotExecutable = 126
	statusNotFound      = 127
)

// Namespaces, capabilities, seccomp filters and PR_SET_PDEATHSIG belong to a thread, not to a process. The Go runtime moves
// goroutines between threads at will, so both parent and child pin themselves to their first thread and stay there.
func init() { runtime.LockOSThread() }

func main() {
	defer lastWords()
	switch os.Args[0] {
	case initName:
		childMain() // we are the child: the clone of the process below
	case reaperName:
		reaperMain() // we are the child, and stay process 1: see init.go
	}
	signals := catchSignals() // before anything that a signal could leave half done
	config, err := parseCommandLine(os.Args[1:])
	if config == nil && err == nil {
		return // --help and --version have said what there is to say
	}
	status := 0
	switch {
	case err == nil && config.Check:
		status = check(signals)
	case err == nil:
		status, err = run(config, signals)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, report(err))
		status = statusBarcoFailed
		if failure := (*Failure)(nil); errors.As(err, &failure) && failure.Status != 0 {
			status = failure.Status
		}
	}
	os.Exit(status)
}

// lastWords is deferred in every goroutine: whoever runs a container is owed a sentence, not a stack of ours, and their terminal.
func lastWords() {
	if bug := recover(); bug != nil {
		restoreTerminals()
		fmt.Fprintf(os.Stderr, "barco: internal error: %v\n", bug)
		os.Exit(statusBarcoFailed)
	}
}

// run starts the container that config describes, and returns the command's exit status once all of it is gone.
func run(config *Config, signals chan os.Signal) (status int, err error) {
	keepTerminals()
	defer restoreTerminals()
	config.watch(os.Getpid(), nil, signals)
	announce(config)
	group, err := makeCgroup(config) // before the clone: the child is born in it
	if err != nil {
		return 0, err
	}
	defer group.remove() // last of all: a cgroup can go only when nobody is in it
	defer group.explain()
	removeMountPoints, err := makeMountPoints(config)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil { // the command never ran
			removeMountPoints()
		}
	}()
	container, err := startContainer(config, group, signals) // socketpair, clone, configuration
	if err != nil {
		return 0, err
	}
	defer func() { err = container.stop(err) }() // whatever goes wrong from here on, the child does not outlive it

	catchOthers(signals) // this and the filter take no longer than the child needs until it asks for its ids
	filter, err := compileFilter(config)
	if err != nil {
		return 0, err
	}
	if err := container.expect(messageMapIDs); err != nil { // by now the child has its host name, and most often its root
		return 0, err
	}
	if err := group.limit(config); err != nil { // before the command: it never runs a moment without its limits
		return 0, err
	}
	if err := writeIDMaps(config, container.process.Pid); err != nil {
		return 0, err
	}
	if err := container.sendMapped(filter); err != nil {
		return 0, err
	}
	if err := container.expectCommand(); err != nil { // end of file: the child has become the command
		return 0, err
	}
	go catchRealTime(signals)
	return container.wait()
}

// announce warns of what the user has chosen and may not have thought through.
func announce(config *Config) {
	for _, layer := range layers {
		if config.skips(layer.name) {
			warn("LEFT OUT, as --skip asks: %s. Now %s", layer.name, layer.without)
		}
	}
	if config.OneID && !config.skips("userns") {
		warn("without root, uid %d inside is you, uid %d, and no other id exists inside: what the command may do to files, it does as you", config.UID, config.HostUID)
	}
	if config.IDMap && !config.skips("seccomp") && !config.skips("seccomp:setid") {
		info("to install packages with set-user-ID or set-group-ID files, add --skip seccomp:setid: else dpkg and others fail at chmod")
	}
	switch {
	case config.skips("mounts"):
	case config.Overlay.Max > 0:
		mountinfo, _ := readFile("/proc/self/mountinfo")
		if points := mountedBelow(string(config.Root), mountinfo); points != nil {
			warn("--overlay shows the filesystem that %s is on, not those that are mounted below it: %s", config.Root, strings.Join(points, " "))
		}
	case config.Root == "/" && !config.ReadOnly:
		warn("the container's / is the host's own: what anyone may read or write there, /tmp for one, so may the command")
	}
}
