package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// The container's life: the clone, what the child does before it becomes the command, the wait. Parent and child are two
// processes of this same program; conversation.go has what they say to each other.
//
// Chapter: docs/03-clone-and-re-exec.md

// A container is the parent's view of the child.
type container struct {
	socket
	config   *Config
	heard    message      // the last thing that was expected of the child, and said
	process  *os.Process  // by a pidfd (pidfd_open(2)), so that no signal can reach a stranger who was given the same pid
	killer   atomic.Int32 // the signal that ended the child before it was the command
	terminal *terminal    // nil when the command uses the user's streams as they are
}

// initName is the child's argv[0], all that tells it what it is; `ps` shows it until execve. What it is to do comes over the socket.
const initName = "barco-init"

// childEnv is the child's environment, with nothing of the host's. Should the Go runtime die, it dies in one line. And on one processor
// it is up sooner, as it starts fewer threads.
var childEnv = []string{"GOTRACEBACK=none", "GOMAXPROCS=1"}

// childSocket is the child's end, the first descriptor after the standard ones.
const childSocket socket = 3

// startContainer makes the namespaces and the child in them with one clone(2), and sends it the configuration. Parent.
//
// Go cannot fork without exec, so the child is barco once more, run from its own file. It has no ids yet, and execve takes
// every capability from a process without ids, except the ambient ones (capabilities(7)).
func startContainer(config *Config, group *cgroup, signals chan os.Signal) (*container, error) {
	info("making a socket pair for parent and child...")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err := sys(err, "socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0, %v)", pair); err != nil {
		return nil, in("socket pair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "socketpair")
	defer theirs.Close() // our copy of it: while it is open, the child's death would not show as end of file

	flags, names := cloneFlags(config)
	// A session of its own (setsid(2)): the command has no business with the host's terminal, nor with its process groups.
	attributes := &unix.SysProcAttr{Cloneflags: flags, Setsid: true}
	if !config.skips("userns") {
		for c := range cap.MaxBits() {
			attributes.AmbientCaps = append(attributes.AmbientCaps, uintptr(c))
		}
	}
	if group != nil { // CLONE_INTO_CGROUP: clone3(2) makes the child right in its cgroup
		attributes.UseCgroupFD, attributes.CgroupFD = true, group.dir
	}
	info("cloning the container, with namespaces %s...", strings.ReplaceAll(names, "CLONE_NEW", ""))
	// What barco was started with stays with barco: the child inherits the standard streams and its end of the socket. A directory
	// of the host's among the others would be a way out, by --workdir /proc/self/fd/N for one (CVE-2024-21626).
	if err := closeOnExec(); err != nil {
		unix.Close(pair[0])
		return nil, in("clone", err)
	}
	openPipes()
	program, err := programFile(config)
	if err != nil {
		unix.Close(pair[0])
		return nil, in("clone", err)
	}
	defer program.Close()
	start := func() (*os.Process, error) {
		return os.StartProcess(fmt.Sprintf("/proc/self/fd/%d", program.Fd()), []string{initName}, &os.ProcAttr{
			Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs},
			Env:   childEnv,
			Sys:   attributes,
		})
	}
	process, err := start()
	if errors.Is(err, unix.ENOSYS) && group != nil { // an outer container's seccomp filter hides clone3
		attributes.UseCgroupFD = false
		process, err = start()
	}
	if err != nil {
		unix.Close(pair[0])
		return nil, in("clone", sys(err, "clone(%s)", names))
	}
	sys(nil, "clone(%s) = %d", names, process.Pid)
	if !config.skips("userns") { // by Go's own code, in the child
		sys(nil, "prctl(PR_SET_KEEPCAPS, 1)")
		sys(nil, "capset({inheritable=all})")
		sys(nil, "prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, ...), for each of %d capabilities", len(attributes.AmbientCaps))
	}
	sys(nil, "execve(\"/proc/self/fd/%d\", [%q])", program.Fd(), initName)
	c := &container{socket: socket(pair[0]), config: config, process: process}
	go c.forwardSignals(signals)
	config.watch(process.Pid, group, nil) // from here on a signal ends a pause by way of forwardSignals
	info("the container is process %d here, and process 1 inside", process.Pid)
	if group != nil && !attributes.UseCgroupFD {
		err = group.add(process.Pid) // the child waits for its configuration, so it does nothing outside its cgroup
	}
	if err == nil {
		err = c.sendConfig()
	}
	if err != nil && !errors.Is(err, unix.EPIPE) { // EPIPE: the child is gone, which expect will say better
		return nil, in("clone", c.stop(err))
	}
	return c, nil
}

// programFile opens what the child is to be: barco's own file. The command can get at it as /proc/self/exe, and overwrite it if
// it may (CVE-2019-5736). Root's file belongs to nobody inside. Without root, or without a user namespace, its owner may well be
// the same inside and outside, so then the child runs from a copy in memory that is sealed against any change (memfd_create(2)). Parent.
func programFile(config *Config) (*os.File, error) {
	own, err := os.Open("/proc/self/exe")
	if err := sys(err, `open("/proc/self/exe", O_RDONLY|O_CLOEXEC)`); err != nil {
		return nil, err
	}
	if !config.OneID && !config.skips("userns") {
		return own, nil
	}
	defer own.Close()
	fd, err := unix.MemfdCreate("barco", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err := sys(err, `memfd_create("barco", MFD_CLOEXEC|MFD_ALLOW_SEALING) = %d`, fd); err != nil {
		return nil, err
	}
	copied := os.NewFile(uintptr(fd), "barco")
	if _, err := io.Copy(copied, own); err != nil {
		copied.Close()
		return nil, sys(err, "copying /proc/self/exe into memory")
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	return copied, sys(err, "fcntl(%d, F_ADD_SEALS, F_SEAL_WRITE|F_SEAL_GROW|F_SEAL_SHRINK|F_SEAL_SEAL)", fd)
}

// openPipes lets the command open anew those of the standard streams that are pipes, as `echo > /dev/stderr` does: for writing
// if it is output, for reading if it is input, and never the other way round, or the command could write into the script that
// the shell before it in the pipe is still reading. That is a convenience: a refusal does not stop the start. Parent.
func openPipes() {
	for fd, mode := range []uint32{0o604, 0o602, 0o602} {
		var fs unix.Statfs_t
		if unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.PIPEFS_MAGIC { // a FIFO in the host's file tree is a file like others
			sys(unix.Fchmod(fd, mode), "fchmod(%d, %#o)", fd, mode)
		}
	}
}

// closeOnExec has every descriptor but the standard streams close at the next execve (close_range(2)). Both.
func closeOnExec() error {
	return sys(unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC), "close_range(3, ~0, CLOSE_RANGE_CLOEXEC)")
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

// expectCommand waits until the child has become the command. Its end of the socket is close-on-exec, so a successful
// execve(2) is what closes it, or the init once it has started the command; the message before tells that from a child that
// was killed. Parent.
func (c *container) expectCommand() error {
	if err := c.expect(messageExecuting); err != nil {
		return err
	}
	if c.config.Init { // it is barco once more, and knows nothing
		if err := c.send(messageConfig, c.config); err != nil && !errors.Is(err, unix.EPIPE) {
			return err
		}
	}
	if err := c.expect(messageEnd); err != nil {
		return err
	}
	info("the container is %s now", c.config.Argv[0])
	return nil
}

// working is what the child does after it has said a message, and before the next.
var working = map[message]string{
	0:                "host name, mounts and root",
	messageMapIDs:    "root, /dev, identity, capabilities and seccomp",
	messageExecuting: "the execve",
}

// diedEarly says how the child ended, when it ended without a word. Parent.
func (c *container) diedEarly() error {
	state, err := c.process.Wait()
	if by := c.killer.Load(); by != 0 {
		return &Failure{Reason: fmt.Sprintf("%s ended the start", unix.SignalName(unix.Signal(by))), Status: 128 + int(by)}
	}
	if err != nil {
		return in("container", sys(err, "waitid(P_PIDFD)"))
	}
	return in("container", &Failure{
		Reason: fmt.Sprintf("it ended while it was at %s: %v", working[c.heard], state),
		Hint:   "likely somebody killed it, or memory.max is too small for barco itself",
	})
}

// stop kills the child, if it still lives, and takes its exit status from the kernel, so that nothing is left of it. It returns
// err, what has gone wrong so far; or, when that is only a consequence of the child's death, how it died. Parent.
func (c *container) stop(err error) error {
	if err != nil && c.killer.Load() != 0 || errors.Is(err, unix.EPIPE) {
		err = c.diedEarly()
	}
	c.process.Kill() // "already finished" is as good
	c.process.Wait()
	unix.Close(int(c.socket))
	return err
}

// wait waits for the command and returns its exit status: its own, or 128+N when signal N killed it. Parent.
func (c *container) wait() (int, error) {
	if c.terminal != nil {
		if err := c.terminal.relay(c.process); err != nil {
			return 0, in("terminal", err)
		}
	}
	state, err := c.process.Wait()
	if err := sys(err, "waitid(P_PIDFD, WEXITED)"); err != nil {
		return 0, in("wait", err)
	}
	status := state.Sys().(syscall.WaitStatus)
	if by := c.killer.Load(); by != 0 && status.Signaled() { // at the very moment of its execve
		return 128 + int(by), nil
	}
	if status.Signaled() {
		warn("the command was killed by %s", unix.SignalName(status.Signal()))
		if status.Signal() == unix.SIGSYS {
			warn("likely it is a 32-bit program: the seccomp filter knows this machine's own system calls, and no others")
		}
		return 128 + int(status.Signal()), nil
	}
	info("the command has ended with status %d", status.ExitStatus())
	return status.ExitStatus(), nil
}

// A child is what the container knows of itself while it is still barco.
type child struct {
	Config
	socket
	mapped                bool           // the ids are there
	filter                []byte         // for seccomp(2), from the parent
	binds                 []int          // mounts for --bind, not yet in the tree
	proc, sysfs, cgroupfs int            // new mounts of the kernel's filesystems, not yet in the tree
	devices               map[string]int // bind mounts of the host's device nodes, likewise
	root                  int            // the directory that becomes /, as a mount
	dev                   int            // the container's /dev, as a place to mount on
	pts                   int            // its devpts
}

// A step of the child's is one kernel feature put in place.
type step struct {
	name  string
	layer string // what --skip calls it; empty when it belongs to every container
	do    func(*child) error
}

// childStory is what the child does between clone and execve, in order, and why the order is what it is.
var childStory = []step{
	{"parent's death", "", dieWithParent},                  // before there is anything that could outlive it
	{"cgroup namespace", "cgroup", unshareCgroupNamespace}, // in its cgroup since clone: what it is in now becomes its "/"
	{"host name", "uts", setHostname},                      // any time before its capabilities go
	{"mount propagation", "mounts", makeMountsPrivate},     // before the first mount, or the host would see it
	{"new /proc and /sys", "mounts", newKernelFilesystems}, // allowed while the host's can be seen: before anything covers them
	{"device nodes", "mounts", cloneDeviceNodes},           // from the host's /dev, likewise
	{"root", "mounts", bindRoot},                           // pivot_root wants a mount point
	{"bind", "mounts", attachBinds},                        // into the root, and not over what comes next
	{"/proc and /sys", "mounts", mountKernelFilesystems},   // on what is DIR's: before pivot_root, after which it has no name
	{"pivot_root", "mounts", pivotRoot},                    // from here on nothing of the host's tree has a name
	{"id map", "", askForIDMap},                            // the parent answers when limits and map are written
	{"/dev", "mounts", mountDev},                           // its files belong to ids: after the map
	{"/tmp", "mounts", mountTmp},                           // likewise
	{"terminal", "", openTerminal},                         // from the devpts in /dev
	{"loopback", "net", bringUpLoopback},                   // needs CAP_NET_ADMIN: before it goes
	{"identity", "", becomeUser},                           // setgroups and setuid: before the capabilities for them go
	{"capabilities", "caps", dropCapabilities},             // all that no later step needs
	{"no new privileges", "", setNoNewPrivs},               // any time before execve
	{"seccomp", "seccomp", loadSeccomp},                    // last, as it forbids most of the above
	{"execve", "", execCommand},                            // and barco is gone
}

// childMain is main in the child. It does not return: it becomes the command, or reports why not and ends.
func childMain() {
	debug.SetGCPercent(-1) // the child lives for milliseconds: collecting garbage would only start threads
	childSocket.fail(initContainer())
}

// fail tells the parent of the failure, and ends. Child.
func (s socket) fail(err error) {
	failure := (*Failure)(nil)
	if !errors.As(err, &failure) {
		failure = refuse("%v", err)
	}
	if s.send(messageFailed, failure) != nil {
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
	if err := c.receiveConfig(); err != nil { // end of file: barco is gone
		return err
	}
	if err := c.receiveBinds(); err != nil {
		return err
	}
	c.startLog()
	logSink = c.tell
	for _, step := range childStory {
		if c.skips(step.layer) {
			continue
		}
		if err := step.do(c); err != nil {
			return in(step.name, err)
		}
	}
	return nil
}

// receiveConfig waits for the first message. Child.
func (c *child) receiveConfig() error {
	got, err := c.receive()
	if err != nil || got.kind != messageConfig {
		return refuse("%s is for barco itself to start", initName)
	}
	if err := json.Unmarshal(got.payload, &c.Config); err != nil {
		return refuse("configuration: %v", err)
	}
	return nil
}

// receiveBinds waits for the mounts that come after it. Child.
func (c *child) receiveBinds() error {
	for range c.Binds {
		if c.OneID {
			break // it makes them itself
		}
		got, err := c.receive()
		if err != nil || got.kind != messageMount || got.descriptor < 0 {
			return refuse("barco itself is gone")
		}
		c.binds = append(c.binds, got.descriptor)
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
	if c.hungUp() {
		return refuse("barco itself is gone")
	}
	return nil
}
