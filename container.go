package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// The container's life, both ends of it. Parent and child are two processes of this same program, and this is all they say
// to each other, over one socketpair:
//
//	parent                                child
//	config          ->                    hostname, mounts, pivot_root
//	                <-  map my ids
//	limits, uid_map, gid_map
//	mapped          ->                    /dev, lo, identity, capabilities, seccomp
//	                <-  executing         execve closes the child's end
//	end of file: the command runs
//
// At any moment the child may send a line for the log instead, or the failure that ended it.

// A message is one thing that parent and child say to each other.
type message byte

const (
	messageConfig    message = 'c' // parent to child: a Config
	messageMapIDs    message = 'm' // child to parent: the mounts are done, I need ids
	messageMapped    message = 'd' // parent to child: done, go on
	messageExecuting message = 'x' // child to parent: the next thing I do is execve
	messageFailed    message = 'f' // child to parent: a Failure
	messageLog       message = 'l' // child to parent: a line of narration
)

// A socket is one end of the conversation. SOCK_SEQPACKET keeps messages apart, and shows the other side's death as end of file.
type socket int

// packetSize is how much of a message goes into one packet: well below what a Unix socket takes by default (unix(7), SO_SNDBUF).
const packetSize = 64 << 10

// send sends a message, with payload as JSON where it has one. All packets but the last begin with a 1, to say that more follow.
func (s socket) send(m message, payload any) error {
	var data []byte
	if payload != nil {
		var err error
		if data, err = json.Marshal(payload); err != nil {
			return err
		}
	}
	for more := byte(1); more == 1; {
		part := data[:min(len(data), packetSize)]
		if data = data[len(part):]; len(data) == 0 {
			more = 0
		}
		packet := append([]byte{more, byte(m)}, part...)
		if err := unix.Sendto(int(s), packet, unix.MSG_NOSIGNAL, nil); err != nil {
			return sys(err, "send(%d, '%c')", s, m)
		}
	}
	return nil
}

// receive waits for a message; its payload is JSON. The message is 0 at end of file: the other side is gone.
func (s socket) receive() (m message, payload []byte, err error) {
	packet := make([]byte, 2+packetSize)
	for {
		n, _, err := unix.Recvfrom(int(s), packet, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ECONNRESET: // it died with our message unread
			return 0, nil, nil
		case err != nil:
			return 0, nil, sys(err, "recv(%d)", s)
		case n == 0:
			return 0, nil, nil
		case n < 2:
			return 0, nil, refuse("a message of %d bytes is none of barco's", n)
		}
		payload = append(payload, packet[2:n]...)
		if packet[0] == 0 {
			return message(packet[1]), payload, nil
		}
	}
}

// A container is the parent's view of the child.
type container struct {
	socket
	process *os.Process // a pidfd (pidfd_open(2)), so that no signal can reach a stranger who was given the same pid
	running atomic.Bool // the child has become the command
	killer  atomic.Int32
}

// initName is the child's argv[0], all that tells it what it is; `ps` shows it until execve. What it is to do comes over the socket.
const initName = "barco-init"

// childSocket is the child's end, the first descriptor after the standard ones.
const childSocket socket = 3

// startContainer makes the namespaces and the child in them with one clone(2), and sends it the configuration. Parent.
//
// Go cannot fork without exec, so the child is barco once more, run from /proc/self/exe. It has no ids yet, and execve takes
// every capability from a process without ids, except the ambient ones (capabilities(7)).
func startContainer(config *Config, group *cgroup) (*container, error) {
	info("making a socket pair for parent and child...")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err := sys(err, "socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0)"); err != nil {
		return nil, in("socket pair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "socketpair")
	defer theirs.Close() // our copy of it: while it is open, the child's death would not show as end of file

	flags, names := cloneFlags(config)
	attributes := &unix.SysProcAttr{Cloneflags: flags}
	if !config.skips("userns") {
		for c := range cap.MaxBits() {
			attributes.AmbientCaps = append(attributes.AmbientCaps, uintptr(c))
		}
	}
	if group != nil { // CLONE_INTO_CGROUP: clone3(2) makes the child right in its cgroup
		attributes.UseCgroupFD, attributes.CgroupFD = true, group.dir
	}
	info("cloning the container, with namespaces %s...", strings.ReplaceAll(names, "CLONE_NEW", ""))
	start := func() (*os.Process, error) {
		return os.StartProcess("/proc/self/exe", []string{initName}, &os.ProcAttr{
			Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs},
			Env:   []string{"GOTRACEBACK=none"}, // nothing of the host's environment; and should the Go runtime die, it dies in one line
			Sys:   attributes,
		})
	}
	process, err := start()
	if errors.Is(err, unix.ENOSYS) && group != nil { // an outer container's seccomp filter hides clone3
		attributes.UseCgroupFD = false
		process, err = start()
	}
	if err := sys(err, "clone(%s)", names); err != nil {
		unix.Close(pair[0])
		return nil, in("clone", err)
	}
	info("the container is process %d here, and process 1 inside", process.Pid)
	c := &container{socket: socket(pair[0]), process: process}
	go c.forwardSignals()
	if group != nil && !attributes.UseCgroupFD {
		err = group.add(process.Pid) // the child waits for its configuration, so it does nothing outside its cgroup
	}
	if err == nil {
		err = c.send(messageConfig, config)
	}
	if err != nil && !errors.Is(err, unix.EPIPE) { // EPIPE: the child is gone, which expect will say better
		c.stop()
		return nil, in("clone", err)
	}
	return c, nil
}

// cloneFlags are the namespaces that clone makes, and their names. The cgroup namespace is not among them: see cgroups.go.
func cloneFlags(config *Config) (flags uintptr, names string) {
	for _, ns := range []struct {
		flag        uintptr
		name, layer string
	}{
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER", "userns"}, // it will own all the others
		{unix.CLONE_NEWNS, "CLONE_NEWNS", "mounts"},
		{unix.CLONE_NEWPID, "CLONE_NEWPID", "pid"},
		{unix.CLONE_NEWIPC, "CLONE_NEWIPC", "ipc"},
		{unix.CLONE_NEWNET, "CLONE_NEWNET", "net"},
		{unix.CLONE_NEWUTS, "CLONE_NEWUTS", "uts"},
	} {
		if !config.skips(ns.layer) {
			flags |= ns.flag
			names += "|" + ns.name
		}
	}
	return flags, strings.TrimPrefix(names, "|")
}

// expect waits until the child has said m, and passes on what it has to tell meanwhile. Parent.
func (c *container) expect(m message) error {
	for {
		got, payload, err := c.receive()
		switch {
		case err != nil:
			return err
		case got == m:
			return nil
		case got == messageLog:
			var line string
			if err := json.Unmarshal(payload, &line); err != nil {
				return refuse("the container sent a line for the log that is none: %v", err)
			}
			logSink(line)
		case got == messageFailed:
			failure := new(Failure)
			if err := json.Unmarshal(payload, failure); err != nil {
				return refuse("the container sent a failure that is none: %v", err)
			}
			return failure
		case got == 0:
			return c.diedEarly()
		default:
			return refuse("the container said %q where %q was due", got, m)
		}
	}
}

// expectCommand waits until the child has become the command. Its end of the socket is close-on-exec, so a successful
// execve(2) is what closes it; the message before tells that from a child that was killed. Parent.
func (c *container) expectCommand() error {
	if err := c.expect(messageExecuting); err != nil {
		return err
	}
	if err := c.expect(0); err != nil {
		return err
	}
	c.running.Store(true)
	return nil
}

// diedEarly says how the child ended, when it ended without a word. Parent.
func (c *container) diedEarly() error {
	state, err := c.process.Wait()
	if by := c.killer.Load(); by != 0 {
		return &Failure{Reason: fmt.Sprintf("%s ended the start", unix.SignalName(unix.Signal(by))), Status: 128 + int(by)}
	}
	if err != nil {
		return sys(err, "waitid(P_PIDFD)")
	}
	return &Failure{
		Reason: fmt.Sprintf("the container ended before the command could start: %v", state),
		Hint:   "likely somebody killed it, or memory.max is too small for barco itself",
	}
}

// stop kills the child, if it still lives, and takes its exit status from the kernel, so that nothing is left of it. Parent.
func (c *container) stop() {
	c.process.Kill() // "already finished" is as good
	c.process.Wait()
	unix.Close(int(c.socket))
}

// wait waits for the command and returns its exit status: its own, or 128+N when signal N killed it. Parent.
func (c *container) wait() (int, error) {
	state, err := c.process.Wait()
	if err := sys(err, "waitid(P_PIDFD, WEXITED)"); err != nil {
		return statusBarcoFailed, in("wait", err)
	}
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		warn("the command was killed by %s", unix.SignalName(status.Signal()))
		return 128 + int(status.Signal()), nil
	}
	info("the command has ended with status %d", status.ExitStatus())
	return status.ExitStatus(), nil
}

// forwardSignals hands the signals that ask a program to end on to the command. Process 1 of a pid namespace ignores every
// signal that it has no handler for (pid_namespaces(7)), so the second one kills it. Parent.
func (c *container) forwardSignals() {
	signals := make(chan os.Signal, 8)
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if !signal.Ignored(s) { // nohup(1)
			signal.Notify(signals, s)
		}
	}
	for n := 1; ; n++ {
		s := (<-signals).(unix.Signal)
		switch {
		case !c.running.Load(): // it is still barco, and nothing in it is worth a goodbye
			c.killer.Store(int32(s))
			c.process.Kill()
		case n == 1:
			warn("passing %s on to the command; another one kills it", unix.SignalName(s))
			c.process.Signal(s)
		default:
			warn("%s again: killing the command", unix.SignalName(s))
			c.process.Kill()
		}
	}
}

// A child is what the container knows of itself while it is still barco.
type child struct {
	Config
	socket
	root    int            // the directory that becomes /, as a mount
	devices map[string]int // the host's device nodes, cloned while they could still be seen
	dev     int            // /dev of the container
}

// A step of the child's is one kernel feature put in place.
type step struct {
	name  string
	layer string // what --skip calls it; empty when it belongs to every container
	do    func(*child) error
}

// childStory is what the child does between clone and execve, in order, and why the order is what it is.
var childStory = []step{
	{"cgroup namespace", "cgroup", unshareCgroupNamespace},   // in its cgroup since clone: what it is in now becomes its "/"
	{"host name", "uts", setHostname},                        // any time before its capabilities go
	{"mount propagation", "mounts", makeMountsPrivate},       // before the first mount, or the host would see it
	{"root", "mounts", bindRoot},                             // pivot_root wants a mount point
	{"kernel filesystems", "mounts", mountKernelFilesystems}, // a new /proc needs a visible old one: before pivot_root
	{"device nodes", "mounts", cloneDeviceNodes},             // from the host's /dev: before pivot_root
	{"pivot_root", "mounts", pivotRoot},                      // from here on nothing of the host's tree has a name
	{"id map", "", askForIDMap},                              // the parent answers when limits and map are written
	{"/dev", "mounts", mountDev},                             // its files belong to ids: after the map
	{"loopback", "net", bringUpLoopback},                     // needs CAP_NET_ADMIN: before it goes
	{"identity", "", becomeUser},                             // setgroups and setuid: before the capabilities for them go
	{"capabilities", "caps", dropCapabilities},               // all that no later step needs
	{"seccomp", "seccomp", loadSeccomp},                      // last, as it forbids most of the above
	{"execve", "", execCommand},                              // and barco is gone
}

// childMain is main in the child. It does not return: it becomes the command, or reports why not and ends.
func childMain() {
	debug.SetGCPercent(-1) // the child lives for milliseconds: collecting garbage would only start threads
	err := initContainer()
	failure := (*Failure)(nil)
	if !errors.As(err, &failure) {
		failure = refuse("%v", err)
	}
	if childSocket.send(messageFailed, failure) != nil {
		fmt.Fprintln(os.Stderr, report(failure))
	}
	os.Exit(statusBarcoFailed)
}

func initContainer() (err error) {
	c := &child{socket: childSocket}
	defer func() {
		if bug := recover(); bug != nil {
			err = refuse("internal error: %v", bug)
		}
	}()
	unix.CloseOnExec(int(childSocket))
	if err := dieWithParent(c); err != nil {
		return err
	}
	m, payload, err := c.receive()
	if err != nil || m != messageConfig {
		return refuse("%s is for barco itself to start", initName)
	}
	if err := json.Unmarshal(payload, &c.Config); err != nil {
		return refuse("configuration: %v", err)
	}
	logLevel = c.logLevel()
	logSink = func(line string) { c.send(messageLog, line) }
	for _, step := range childStory {
		if slices.Contains(c.Skip, step.layer) {
			continue
		}
		if err := step.do(c); err != nil {
			return in(step.name, err)
		}
	}
	return nil
}

// dieWithParent has the kernel kill the child when its parent's thread ends, `kill -9` included (PR_SET_PDEATHSIG(2const)).
// A change of ids clears it, so it is asked for twice. Child.
func dieWithParent(c *child) error {
	if err := sys(unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0), "prctl(PR_SET_PDEATHSIG, SIGKILL)"); err != nil {
		return err
	}
	// A parent that died before the call above sends no signal, and getppid(2) is 0 in a pid namespace: its end of the socket tells.
	poll := []unix.PollFd{{Fd: int32(c.socket), Events: unix.POLLIN}}
	if _, err := unix.Poll(poll, 0); err == nil && poll[0].Revents&unix.POLLHUP != 0 {
		return refuse("barco itself is gone")
	}
	return nil
}
