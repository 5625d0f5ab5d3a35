package main

import (
	"bufio"
	"cmp"
	"fmt"
	mathbits "math/bits"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// The kernel's own evidence, for -v and --step: what /proc shows of the container before each step, and what is different from
// the step before. Nothing here is concluded from what barco has asked for.
//
// Chapter: docs/04-hostname.md

// lessons are the functions whose info line is a step: where to read about it, and what to look at from a second terminal.
var lessons = map[string]struct{ see, look string }{
	"newCgroup":              {"cgroups(7), flock(2)", "cat /proc/PID/cgroup"},
	"startContainer":         {"clone(2), namespaces(7), socketpair(2)", "lsns -p PID"},
	"unshareCgroupNamespace": {"cgroup_namespaces(7), unshare(2)", "ls -l /proc/PID/ns/cgroup /proc/self/ns/cgroup"},
	"setHostname":            {"uts_namespaces(7), sethostname(2)", "nsenter -t PID -u hostname"},
	"makeMountsPrivate":      {"mount_namespaces(7), mount(2)", "grep -c shared: /proc/PID/mountinfo"},
	"newKernelFilesystems":   {"proc(5), sysfs(5), fsopen(2), fsmount(2)", "ls -l /proc/PID/fd"},
	"cloneDeviceNodes":       {"null(4), random(4), open_tree(2)", "ls -l /proc/PID/fd"},
	"bindRoot":               {"open_tree(2), mount_setattr(2), move_mount(2)", "grep ' /proc ' /proc/PID/mountinfo"},
	"shiftOwners":            {"mount_setattr(2)", "ls -ln /proc/PID/root"},
	"overlayOn":              {"fsopen(2), unshare(2)", "ls -l /proc/PID/root"},
	"attachBinds":            {"openat2(2), move_mount(2)", "cat /proc/PID/mountinfo"},
	"mountKernelFilesystems": {"proc(5), sysfs(5), move_mount(2)", "cat /proc/PID/mountinfo"},
	"pivotRoot":              {"pivot_root(2), umount2(2)", "ls /proc/PID/root; cat /proc/PID/mountinfo"},
	"askForIDMap":            {"user_namespaces(7)", "cat /proc/PID/uid_map"},
	"limit":                  {"cgroups(7)", "cat /proc/PID/cgroup"},
	"writeIDMaps":            {"user_namespaces(7)", "cat /proc/PID/uid_map /proc/PID/gid_map"},
	"mountDev":               {"null(4), pts(4), shm_overview(7), setfsuid(2)", "ls -l /proc/PID/root/dev"},
	"openTerminal":           {"pty(7), ioctl_tty(2)", "ls -l /proc/PID/fd"},
	"bringUpLoopback":        {"network_namespaces(7), netdevice(7)", "nsenter -t PID -n ip link"},
	"becomeUser":             {"setgroups(2), setresgid(2), setresuid(2)", "grep -E 'Uid|Gid|Groups' /proc/PID/status"},
	"dropCapabilities":       {"capabilities(7), capset(2)", "grep Cap /proc/PID/status"},
	"setNoNewPrivs":          {"PR_SET_NO_NEW_PRIVS(2const)", "grep NoNewPrivs /proc/PID/status"},
	"loadSeccomp":            {"seccomp(2)", "grep Seccomp /proc/PID/status"},
	"expectCommand":          {"execve(2)", "ls -l /proc/PID/exe; grep Cap /proc/PID/status"},
	"execCommand":            {"execve(2), close_range(2)", "ls -l /proc/PID/exe /proc/PID/fd"},
}

// chapters are the pages of the book, in docs, by the file that they are about.
var chapters = map[string]string{
	"main.go":         "01-what-a-container-is.md",
	"flags.go":        "02-command-line-and-conversation.md",
	"conversation.go": "02-command-line-and-conversation.md",
	"container.go":    "03-clone-and-re-exec.md",
	"exec.go":         "03-clone-and-re-exec.md",
	"hostname.go":     "04-hostname.md",
	"errors.go":       "04-hostname.md",
	"log.go":          "04-hostname.md",
	"evidence.go":     "04-hostname.md",
	"mounts.go":       "05-mounts-and-pivot-root.md",
	"rootfs.go":       "05-mounts-and-pivot-root.md",
	"proc.go":         "06-proc-sys-dev.md",
	"dev.go":          "06-proc-sys-dev.md",
	"userns.go":       "07-user-namespace.md",
	"caps.go":         "08-capabilities.md",
	"seccomp.go":      "09-seccomp.md",
	"cgroups.go":      "10-cgroups.md",
	"check.go":        "10-cgroups.md",
	"network.go":      "11-network.md",
	"console.go":      "12-terminal.md",
	"signals.go":      "13-signals-and-cleaning-up.md",
	"init.go":         "13-signals-and-cleaning-up.md",
}

// A fact is one thing that the kernel shows, as text. Of mounts the text has one line for each.
type fact struct{ name, value string }

// A watcher looks at barco, and from the clone on at the container. Parent.
type watcher struct {
	config  *Config
	signals chan os.Signal
	over    chan struct{} // closed when the start is over, and nobody need hit Enter
	pid     int
	group   *cgroup
	once    sync.Once
	name    string // the host's, as the child sees it
	filter  string // how many instructions its filter has
	before  []fact
}

// watching is nil unless -v or --step ask for it.
var watching *watcher

// watch begins to look at a process: barco itself, then the child, which was a copy of it. Parent.
func (config *Config) watch(pid int, group *cgroup, signals chan os.Signal) {
	if !config.narrates() {
		return
	}
	if watching == nil {
		watching = &watcher{config: config, over: make(chan struct{})}
		watching.name, _ = os.Hostname()
	}
	watching.pid, watching.group, watching.signals = pid, group, signals
	if watching.before == nil {
		watching.before = watching.look()
	}
}

// look reads what the kernel shows of the process. The host name is what the child has read: no file shows it to others.
func (w *watcher) look() (facts []fact) {
	proc := fmt.Sprintf("/proc/%d/", w.pid)
	add := func(name, value string) { facts = append(facts, fact{name, value}) }
	for _, ns := range []string{"user", "mnt", "pid", "ipc", "net", "uts", "cgroup"} {
		link, _ := os.Readlink(proc + "ns/" + ns)
		add(ns+" namespace", link[strings.IndexByte(link, '[')+1:max(0, len(link)-1)])
	}
	add("host name", w.name)
	cgroups, _ := readFile(proc + "cgroup")
	add("cgroup", cgroup2Path(cgroups))
	if w.group != nil {
		for _, c := range controllers(w.config) {
			add(c.file, strings.Join(readWords(w.group.path+"/"+c.file), " "))
		}
	}
	for _, file := range []string{"uid_map", "gid_map", "setgroups"} {
		add(file, strings.Join(readWords(proc+file), " "))
	}
	status, _ := readFile(proc + "status")
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
		switch name {
		case "NSpid":
			here, inside, _ := strings.Cut(value, "\t")
			add("pid", strings.TrimSuffix(here+", inside "+inside, ", inside "))
		case "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp_filters":
			add(name, strings.Join(strings.Fields(value), " "))
			if name == "Seccomp_filters" {
				if value != "0" && w.filter == "" {
					w.filter = w.filterLength()
				}
				add("filter instructions", w.filter)
			}
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			bits, _ := strconv.ParseUint(value, 16, 64)
			add(name, capSet(bits))
		}
	}
	var mounts []string
	mountinfo, _ := readFile(proc + "mountinfo")
	for _, m := range parseMountinfo(mountinfo) {
		mounts = append(mounts, printable(fmt.Sprintf("%s %s %s", m.point, m.fstype, m.options)))
	}
	add("mounts", strings.Join(mounts, "\n"))
	return facts
}

// capSet names the capabilities in a set, or those that are not in it if they are fewer.
func capSet(bits uint64) string {
	all := uint64(1)<<cap.MaxBits() - 1
	switch missing := all &^ bits; {
	case missing == 0:
		return fmt.Sprintf("all %d", cap.MaxBits())
	case mathbits.OnesCount64(missing) < mathbits.OnesCount64(bits):
		return "all but " + capNames(missing)
	}
	return capNames(bits)
}

// filterLength returns how many instructions the process's seccomp filter has (ptrace(2), PTRACE_SECCOMP_GET_FILTER), if the
// kernel tells: it tells root, about a process that stands still, as the child does while it waits for the parent.
func (w *watcher) filterLength() string {
	if unix.PtraceSeize(w.pid) != nil {
		return "not told"
	}
	defer unix.PtraceDetach(w.pid)
	var status unix.WaitStatus
	if unix.PtraceInterrupt(w.pid) != nil {
		return "not told"
	}
	if _, err := unix.Wait4(w.pid, &status, unix.WALL, nil); err != nil || !status.Stopped() {
		return "not told"
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(w.pid), 0, 0, 0, 0)
	if errno != 0 {
		return "not told"
	}
	return strconv.Itoa(int(n))
}

// A change is what --log-format json makes of one.
type change struct {
	Changed string   `json:"changed"`
	Before  string   `json:"before"`
	After   string   `json:"after"`
	Gone    []string `json:"gone,omitempty"` // of mounts
	New     []string `json:"new,omitempty"`
}

// changes says what is different from the last look.
func (w *watcher) changes(hostName string) {
	w.name = cmp.Or(hostName, w.name)
	after := w.look()
	if _, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/uts", w.pid)); err != nil { // it has ended, perhaps in the middle of that
		return
	}
	value := map[string]string{}
	for _, f := range w.before {
		value[f.name] = f.value
	}
	w.before = after
	for _, f := range after {
		c := change{Changed: f.name, Before: value[f.name], After: f.value}
		switch {
		case c.Before == c.After:
			continue
		case f.name == "mounts":
			c.Gone, c.New = difference(c.Before, c.After), difference(c.After, c.Before)
			if c.Gone == nil && c.New == nil {
				continue // the same in another order
			}
			c.Before, c.After = strconv.Itoa(strings.Count(c.Before, "\n")+1), strconv.Itoa(strings.Count(c.After, "\n")+1)
		}
		w.write(c)
	}
}

// difference returns the lines of one text that another has not.
func difference(text, other string) (lines []string) {
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.Contains("\n"+other+"\n", "\n"+line+"\n") {
			lines = append(lines, line)
		}
	}
	return lines
}

// write shows a change, in a few lines at most.
func (w *watcher) write(c change) {
	if logJSON {
		writeJSON(c)
		return
	}
	quote := func(value string) string {
		if value == "" {
			return "none"
		}
		return value
	}
	lines := []string{fmt.Sprintf("now %s: %s -> %s", c.Changed, quote(c.Before), quote(c.After))}
	const few = 8
	list := func(sign string, mounts []string) {
		for _, mount := range mounts[:min(few, len(mounts))] {
			lines = append(lines, "  "+sign+" "+mount)
		}
		if len(mounts) > few {
			lines = append(lines, fmt.Sprintf("  %s and %d more", sign, len(mounts)-few))
		}
	}
	list("-", c.Gone)
	list("+", c.New)
	for _, line := range lines {
		for _, part := range wrap(line) {
			if logColor {
				part = "\x1b[36m" + part + "\x1b[0m"
			}
			writeLog(indent + part)
		}
	}
}

// release ends a pause, and all others, as the child has been killed.
func (w *watcher) release() {
	if w != nil {
		w.once.Do(func() { close(w.over) })
	}
}

// pause waits at a step until Enter is hit, or a signal says that the start is over: with --step.
func (w *watcher) pause(e entry) {
	if !w.config.Step {
		return
	}
	fmt.Fprintf(os.Stderr, "%slook at: %s\n%sEnter goes on, Ctrl-C ends it ", indent, strings.ReplaceAll(lessons[e.Step].look, "PID", strconv.Itoa(w.pid)), indent)
	enter := make(chan error, 1)
	go func() {
		defer lastWords()
		_, err := bufio.NewReaderSize(os.Stdin, 16).ReadString('\n')
		enter <- err
	}()
	select {
	case err := <-enter:
		if err == nil {
			return
		}
	case s := <-w.signals: // it is for whoever forwards signals
		w.signals <- s
	case <-w.over:
	}
	fmt.Fprintln(os.Stderr)
	w.config.Step = false
}
