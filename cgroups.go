package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The cgroup (cgroups(7), the kernel's Documentation/admin-guide/cgroup-v2.rst): how much memory, processor time and how many
// processes the container may use. A cgroup is a directory: mkdir makes it, files in it set its limits, rmdir removes it.
//
// Chapter: docs/10-cgroups.md

// A cgroup is the one that this run has made. A nil one stands for none: --skip cgroup, or a host without cgroup v2.
type cgroup struct {
	path string // host path
	dir  int    // the directory, open
	kill int    // cgroup.kill, open and locked: the lock tells other barcos that this one lives
}

// A controller is one limit: the controller behind it, the file it is written to, and what is written.
type controller struct {
	name, file string
	limit      *limit
}

func controllers(config *Config) []controller {
	return []controller{{"memory", "memory.max", &config.Memory}, {"cpu", "cpu.weight", &config.Weight}, {"pids", "pids.max", &config.Pids}}
}

const cgroupPrefix = "barco-"

// makeCgroup makes a cgroup for one container, below the top of the cgroup v2 tree, with the controllers that its limits need.
// Where the kernel cannot enforce a limit, one that the user asked for is an error, and barco's own default gives way, with a warning. Parent.
func makeCgroup(config *Config) (*cgroup, error) {
	if config.skips("cgroup") && config.skips("pid") {
		return nil, refuse("--skip pid and --skip cgroup exclude each other: nothing could end the processes that the command leaves behind")
	}
	if config.skips("cgroup") {
		return nil, nil
	}
	above, err := cgroupAbove()
	if err != nil {
		return nil, in("cgroup", err)
	}
	group, obstacle := newCgroup(above)
	var missing []string
	causes := map[string][]string{}
	for _, c := range controllers(config) {
		if c.limit.Max == math.MaxInt64 { // no limit is wanted: nothing to enforce
			continue
		}
		err := obstacle
		if err == nil {
			err = enableController(above, c.name)
		}
		if err == nil {
			continue
		}
		if c.limit.Asked {
			group.remove()
			return nil, in("cgroup", refuse("%s cannot be enforced: %v", c.file, err))
		}
		causes[err.Error()] = append(causes[err.Error()], c.name)
		c.limit.Max = math.MaxInt64
	}
	for cause, names := range causes {
		missing = append(missing, strings.Join(names, ", ")+": "+cause)
	}
	if missing != nil {
		warn("NO LIMIT on %s", strings.Join(missing, "; on "))
	}
	if group == nil && config.skips("pid") {
		return nil, refuse("--skip pid without a cgroup: nothing could end the processes that the command leaves behind")
	}
	return group, nil
}

// cgroupAbove returns the directory below which barco makes its cgroup, "" when there is no cgroup v2. Root takes the top of the
// tree. Anybody else needs a part of it that was delegated to them: cgroups are delegated as directories, by chown, and a
// process moves only within what its user may write to, so the new cgroup goes beside the one that barco is in.
func cgroupAbove() (string, error) {
	top, err := findCgroup2("/proc/self/mountinfo")
	if err != nil || top == "" || unix.Geteuid() == 0 {
		return top, err
	}
	text, err := readFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	own := cgroup2Path(text)
	if own == "" {
		return "", nil
	}
	return filepath.Join(top, filepath.Dir(own)), nil
}

// cgroup2Path returns a process's path in the cgroup v2 tree, from the text of its /proc/PID/cgroup; "" without one.
func cgroup2Path(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		if path, ok := strings.CutPrefix(line, "0::/"); ok { // cgroups(7): hierarchy 0 is cgroup v2
			return "/" + strings.TrimSuffix(path, "\n")
		}
	}
	return ""
}

// newCgroup makes a cgroup with a name of its own below top. The error is a sentence: cause and remedy.
func newCgroup(top string) (*cgroup, error) {
	if top == "" && onV1("memory") {
		return nil, errors.New("this host has its controllers on cgroup v1, and no cgroup v2: " + remedyForV1())
	}
	if top == "" {
		return nil, errors.New("no cgroup v2 is mounted here: mount -t cgroup2 cgroup2 /sys/fs/cgroup; in Docker, docker run --privileged --cgroupns=host")
	}
	removeStale(top)
	info("making a cgroup below %s...", top)
	for n := 0; ; n++ { // a name is taken only while another barco is between its mkdir and its flock
		group := &cgroup{path: fmt.Sprintf("%s/%s%d-%d", top, cgroupPrefix, os.Getpid(), n), dir: -1, kill: -1}
		err := group.make()
		switch {
		case err == nil:
			return group, nil
		case errors.Is(err, unix.EACCES) && onV1("memory"):
			return nil, errors.New("this host is hybrid, it has its controllers on cgroup v1: " + remedyForV1())
		case errors.Is(err, unix.EACCES):
			return nil, fmt.Errorf("%s is not delegated to you: systemd-run --user --scope barco ..., or use sudo", top)
		case errors.Is(err, unix.EROFS):
			return nil, fmt.Errorf("%s is read-only here; in Docker, docker run --privileged --cgroupns=host", top)
		case n == 100 || !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.ENOENT):
			return nil, err
		}
	}
}

// make makes the directory, and locks it (flock(2)): the kernel drops the lock when barco ends, however it ends. Whoever can
// open a file can lock it, so the lock is on cgroup.kill, which nobody but the owner can open, and the container not at all.
func (group *cgroup) make() (err error) {
	if err := sys(unix.Mkdir(group.path, 0o755), "mkdir(%q, 0755)", group.path); err != nil {
		return err
	}
	group.dir, err = unix.Open(group.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err = sys(err, "open(%q, O_RDONLY|O_DIRECTORY|O_CLOEXEC) = %d", group.path, group.dir); err == nil {
		group.kill, err = lock(group.path)
	}
	if err == nil { // another barco may have taken it for stale, and removed it, just before we had the lock
		err = sys(unix.Access(group.path, unix.F_OK), "access(%q, F_OK)", group.path)
	}
	if err != nil {
		group.close()
		unix.Rmdir(group.path) // it is ours, or else was about to be removed
	}
	return err
}

// lock opens and locks a cgroup's cgroup.kill. EWOULDBLOCK says that a living barco has it.
func lock(path string) (kill int, err error) {
	kill, err = unix.Open(path+"/cgroup.kill", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err := sys(err, "open(%q, O_WRONLY|O_CLOEXEC) = %d", path+"/cgroup.kill", kill); err != nil {
		return -1, err
	}
	if err := sys(unix.Flock(kill, unix.LOCK_EX|unix.LOCK_NB), "flock(%d, LOCK_EX|LOCK_NB)", kill); err != nil {
		unix.Close(kill)
		return -1, err
	}
	return kill, nil
}

// close lets go of the cgroup, and of its lock.
func (group *cgroup) close() {
	unix.Close(group.dir)
	unix.Close(group.kill)
}

// findCgroup2 returns where the cgroup v2 tree is mounted, "" when it is not. /sys/fs/cgroup is only where it usually is; an
// ordinary directory there would take our files and limit nothing.
func findCgroup2(mountinfo string) (string, error) {
	text, err := readFile(mountinfo)
	for _, m := range parseMountinfo(text) {
		if m.fstype == "cgroup2" {
			return m.point, err
		}
	}
	return "", err
}

// enableController has top hand the controller down to the cgroups below it. The error is a sentence: cause and remedy.
func enableController(top, name string) error {
	switch {
	case slices.Contains(readWords(top+"/cgroup.subtree_control"), name):
		return nil
	case hasProcesses(top): // cgroups(7), the "no internal processes" rule
		return fmt.Errorf("%s has processes of its own, so it cannot hand the %s controller down to cgroups below it; likely this is a container: move them to a cgroup of their own first", top, name)
	case slices.Contains(readWords(top+"/cgroup.controllers"), name):
		err := writeExisting(unix.AT_FDCWD, top+"/cgroup.subtree_control", "+"+name)
		if err != nil {
			return fmt.Errorf("%s does not hand the %s controller down: %w", top, name, err)
		}
		return nil
	case onV1(name):
		return errors.New("this host is hybrid, it has its controllers on cgroup v1: " + remedyForV1())
	}
	return fmt.Errorf("%s/cgroup.controllers does not list the %s controller: enable it in the cgroups above", top, name)
}

// remedyForV1 is what to do about controllers on cgroup v1.
func remedyForV1() string {
	if isWSL2(kernelRelease()) {
		return "on WSL2, wsl --update"
	}
	return "boot it with systemd.unified_cgroup_hierarchy=1"
}

// hasProcesses says whether processes are in the cgroup itself. The root of all, which has no cgroup.type, may have them.
func hasProcesses(path string) bool {
	return len(readWords(path+"/cgroup.type")) > 0 && len(readWords(path+"/cgroup.procs")) > 0
}

// onV1 says whether a cgroup v1 tree has the controller: cgroups(7), /proc/cgroups; the second field is 0 for v2.
func onV1(name string) bool {
	text, _ := readFile("/proc/cgroups")
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) == 4 && fields[0] == name {
			return fields[1] != "0"
		}
	}
	return false
}

// limit writes the limits. Parent.
func (group *cgroup) limit(config *Config) error {
	if group == nil {
		return nil
	}
	for _, c := range controllers(config) {
		value := c.limit.Max
		if value == math.MaxInt64 { // what a new cgroup has anyway
			continue
		}
		if c.name == "memory" {
			value &^= int64(os.Getpagesize() - 1) // as the kernel does
		}
		info("limiting %s to %d...", c.file, value)
		if c.name == "memory" {
			// Without swap.max a limit on memory is one on how soon the container swaps. With oom.group the kernel ends all of the
			// container, not the process that it likes least. Not every kernel has them.
			for _, setting := range [][2]string{{"memory.swap.max", "0"}, {"memory.oom.group", "1"}} {
				if err := writeExisting(group.dir, setting[0], setting[1]); err != nil && !errors.Is(err, unix.ENOENT) {
					return in("cgroup", err)
				}
			}
		}
		if err := writeExisting(group.dir, c.file, strconv.FormatInt(value, 10)); err != nil {
			return in("cgroup", err)
		}
		if got := readWords(group.path + "/" + c.file); !slices.Equal(got, []string{strconv.FormatInt(value, 10)}) {
			return in("cgroup", refuse("%s reads %v where %d was written: it is not what it seems", c.file, got, value))
		}
	}
	return nil
}

// explain says which limits the container ran into, from what the kernel has counted (cgroup-v2.rst: memory.events, pids.events). Parent.
func (group *cgroup) explain() {
	if group == nil {
		return
	}
	if group.event("memory.events", "oom_kill") > 0 && group.event("memory.events", "oom") > 0 { // one alone: the whole host ran out
		peak := "not known to this kernel"
		if words := readWords(group.path + "/memory.peak"); len(words) == 1 {
			peak = formatSize(words[0])
		}
		fmt.Fprintf(os.Stderr, "barco: killed by the kernel: memory.max=%s reached (peak %s)\n", formatSize(readWords(group.path + "/memory.max")[0]), peak)
	}
	if refused := group.event("pids.events", "max"); refused > 0 {
		warn("pids.max=%s was reached: %d times a process or thread could not be made", readWords(group.path + "/pids.max")[0], refused)
	}
}

// event returns one counter of a file of counters, 0 where there is none.
func (group *cgroup) event(file, name string) (count int) {
	words := readWords(group.path + "/" + file)
	if i := slices.Index(words, name); i >= 0 && i+1 < len(words) {
		count, _ = strconv.Atoi(words[i+1])
	}
	return count
}

// formatSize writes a number of bytes as --memory takes it: 64M for 67108864.
func formatSize(bytes string) string {
	n, err := strconv.ParseInt(bytes, 10, 64)
	if err != nil {
		return bytes // "max"
	}
	unit := ""
	for _, next := range []string{"K", "M", "G", "T"} {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, next
	}
	return strconv.FormatInt(n, 10) + unit
}

// add moves a process into the cgroup, where clone could not do it. Parent.
func (group *cgroup) add(pid int) error {
	return writeExisting(group.dir, "cgroup.procs", strconv.Itoa(pid))
}

// remove ends whatever is left in the cgroup and removes it. Parent.
func (group *cgroup) remove() {
	if group == nil {
		return
	}
	if err := destroy(group.path); err != nil {
		warn("cannot remove the cgroup %s, the next barco will try again: %v", group.path, err)
	}
	group.close()
}

// destroy removes the cgroup. Processes that are left in it, which rmdir(2) tells by EBUSY, are killed first.
func destroy(path string) error {
	err := sys(unix.Rmdir(path), "rmdir(%q)", path)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	if err := writeExisting(unix.AT_FDCWD, path+"/cgroup.kill", "1"); err != nil && !errors.Is(err, unix.ENOENT) { // ENOENT: before Linux 5.14
		return err
	}
	if err := waitUntilEmpty(path); err != nil {
		return err
	}
	return sys(unix.Rmdir(path), "rmdir(%q)", path)
}

// waitUntilEmpty waits until cgroup.events says "populated 0". The kernel reports each change of that file as POLLPRI (poll(2)).
func waitUntilEmpty(path string) error {
	events, err := unix.Open(path+"/cgroup.events", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err := sys(err, "open(%q, O_RDONLY|O_CLOEXEC) = %d", path+"/cgroup.events", events); err != nil {
		return err
	}
	defer unix.Close(events)
	deadline := time.Now().Add(10 * time.Second) // a process that the kernel itself cannot end must not hang barco
	for time.Now().Before(deadline) {
		text := make([]byte, 256)
		n, err := unix.Pread(events, text, 0)
		if err := sys(err, "pread(%d) = %d", events, n); err != nil {
			return err
		}
		if strings.Contains(string(text[:n]), "populated 0") {
			return nil
		}
		unix.Poll([]unix.PollFd{{Fd: int32(events), Events: unix.POLLPRI}}, int(time.Until(deadline).Milliseconds()))
	}
	return refuse("processes %v do not end", readWords(path+"/cgroup.procs"))
}

// removeStale removes the cgroups of barcos that ended without a chance to do it: those that bear such a name, and whose lock
// nobody holds. Parent.
func removeStale(top string) {
	paths, _ := filepath.Glob(top + "/" + cgroupPrefix + "*-*")
	for _, path := range paths {
		pid, attempt, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), cgroupPrefix), "-")
		_, err := strconv.ParseUint(pid, 10, 64)
		_, err2 := strconv.ParseUint(attempt, 10, 64)
		if err != nil || err2 != nil {
			continue // somebody else's
		}
		kill, err := lock(path)
		if err != nil {
			continue // a living barco's, or gone meanwhile
		}
		if err := destroy(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			warn("cannot remove the cgroup %s of a barco that has ended: %v", path, err)
		}
		unix.Close(kill)
	}
}

// unshareCgroupNamespace makes the cgroup that the child is in the root of what it sees of cgroups (cgroup_namespaces(7)). In
// the clone itself that would have been the parent's cgroup. Child.
func unshareCgroupNamespace(*child) error {
	info("making its cgroup the only one that it sees...")
	return sys(unix.Unshare(unix.CLONE_NEWCGROUP), "unshare(CLONE_NEWCGROUP)")
}

// writeExisting writes to a file of the kernel's, a path below dir. Never with O_CREAT: where the file is missing, a new one
// would take the text and do nothing.
func writeExisting(dir int, path, text string) error {
	fd, err := unix.Openat(dir, path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err := sys(err, "openat(%v, %q, O_WRONLY|O_CLOEXEC) = %d", at(dir), path, fd); err != nil {
		return err
	}
	defer unix.Close(fd)
	n, err := unix.Write(fd, []byte(text))
	return sys(err, "write %s: write(%d, %q, %d) = %d", filepath.Base(path), fd, text, len(text), n)
}

// readWords returns the words in a small file, none when it cannot be read.
func readWords(path string) []string {
	text, _ := readFile(path)
	return strings.Fields(text)
}

// readFile returns the text of a file of the kernel's. os.ReadFile would first see whether it can wait for the file (epoll(7)),
// which takes six system calls, and wait for ever should the kernel then say EAGAIN.
func readFile(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", failed(err, "open(%q, O_RDONLY|O_CLOEXEC)", path)
	}
	defer unix.Close(fd)
	var text []byte
	for buffer := make([]byte, 16<<10); ; {
		n, err := unix.Read(fd, buffer)
		switch {
		case err != nil:
			return "", failed(err, "read(%d %s)", fd, path)
		case n == 0:
			return string(text), nil
		}
		text = append(text, buffer[:n]...)
	}
}
