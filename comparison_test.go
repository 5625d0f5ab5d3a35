package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// docs/comparison.md sets barco beside other programs. What its measured table says of them is looked at here, in containers of
// all of them, from inside: the page's own command lines, on one tree, on a terminal.

// A rival is a column of that table.
type rival struct {
	name string
	line []string // what is run; DIR, SCRIPT, BUNDLE, STATE and NAME stand for what is different each time
}

// An arena is what they all find: the tree, in which the command answers by way of the FIFO out, and is told to go on by the FIFO in.
type arena struct {
	t         *testing.T
	root, dir string
	starts    int
}

// lookScript says, in a container, what there is. Nothing that it opens for writing is written to.
const lookScript = `exec 9>/out
say() { echo "$@" >&9; }
for name in CapEff CapBnd NoNewPrivs Seccomp_filters Groups; do say $name $(grep ^$name: /proc/self/status | cut -f 2); done
say uid_map $(cat /proc/self/uid_map)
for ns in user mnt pid ipc net uts cgroup; do say ns/$ns $(readlink /proc/self/ns/$ns); done
say pid $$
say process1 $(tr '\0' ' ' </proc/1/cmdline)
set -- /proc/[0-9]*; say processes $#
say hostname $(hostname)
say variable $COMPARISON
[ ! -d /proc/$$/fd/3 ] || say descriptor 3
say terminal $(stat -L -c %d:%i /proc/$$/fd/0)
say devices $(for f in /dev/*; do [ ! -c $f ] || [ -L $f ] || echo ${f#/dev/}; done)
say lo $(ip link show lo)
say kcore $(head -c 1 /proc/kcore | wc -c)
say limits $(cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max)
say write $( (: >>/written) 2>&1)
say core_pattern $( (: >>/proc/sys/kernel/core_pattern) 2>&1)
say userns $(unshare -U true 2>&1)
say mount $(mount -t tmpfs none /mnt 2>&1)
while read line; do say mountinfo $line; done </proc/self/mountinfo
say end
`

// endScript tells of a SIGTERM, or else of being alive.
const endScript = `exec 9>/out; trap 'echo told >&9; exit' TERM; echo ready >&9; read x </in; echo alive >&9`

// A look is what lookScript said, with the host beside it.
type look struct {
	said  map[string]string
	mount map[string][]string // the options of each mount
	arena *arena
	// and what takes a container more
	missing, killed, told string
}

func (l *look) hostNS(name string) bool {
	host, _ := os.Readlink("/proc/self/ns/" + name)
	return l.said["ns/"+name] == host
}

// caps names the capabilities in a set of /proc/PID/status.
func (l *look) caps(set string) string {
	bits, _ := strconv.ParseUint(l.said[set], 16, 64)
	status, _ := readFile("/proc/self/status")
	host, _ := strconv.ParseUint(statusField(status, set), 16, 64)
	if bits == host || bits == 1<<cap.MaxBits()-1 {
		return "all"
	}
	return capNames(bits)
}

// opened says how opening a file for writing went.
func (l *look) opened(name string) string {
	words := strings.Split(l.said[name], ": ") // the shell, the file, the reason
	return one(len(words) == 1, "yes", "no: "+strings.ToLower(words[len(words)-1]))
}

// one is for what is either of two.
func one(is bool, yes, no string) string {
	if is {
		return yes
	}
	return no
}

// unified says whether the machine has cgroup v2 alone.
func unified() bool {
	top, err := findCgroup2("/proc/self/mountinfo")
	return err == nil && top == "/sys/fs/cgroup"
}

// A measure is a row of the table.
type measure struct {
	row    string
	see    func(*look) string
	adjust func(cell string, a *arena) string // what the cell means on this machine
	cannot func() string                      // why this machine cannot tell
}

var measures = []measure{
	{row: "namespaces of its own", see: func(l *look) string {
		var own []string
		for _, name := range strings.Fields("user mnt pid ipc net uts") {
			if !l.hostNS(name) {
				own = append(own, name)
			}
		}
		return strings.Join(own, " ")
	}},
	{row: "cgroup namespace", see: func(l *look) string { return one(l.hostNS("cgroup"), "no", "yes") }, adjust: func(cell string, _ *arena) string {
		return one(cell == "on cgroup v2", one(unified(), "yes", "no"), cell)
	}},
	{row: "/proc/self/uid_map", see: func(l *look) string {
		host, _ := readFile("/proc/self/uid_map")
		return one(l.said["uid_map"] == strings.Join(strings.Fields(host), " "), "the host's", l.said["uid_map"])
	}},
	{row: "CapEff: capabilities of root inside", see: func(l *look) string { return l.caps("CapEff") }},
	{row: "CapBnd: what an execve can give", see: func(l *look) string { return l.caps("CapBnd") }},
	{row: "NoNewPrivs", see: func(l *look) string { return l.said["NoNewPrivs"] }},
	{row: "Seccomp_filters", see: func(l *look) string { // less those that this test is under itself
		status, _ := readFile("/proc/self/status")
		outer, _ := strconv.Atoi(statusField(status, "Seccomp_filters"))
		n, _ := strconv.Atoi(l.said["Seccomp_filters"])
		return strconv.Itoa(n - outer)
	}},
	{row: "makes a user namespace inside", see: func(l *look) string { return one(l.said["userns"] == "", "yes", "no") }, cannot: func() string {
		if text, _ := readFile("/proc/sys/kernel/unprivileged_userns_clone"); strings.TrimSpace(text) == "0" {
			return "kernel.unprivileged_userns_clone is 0"
		}
		return ""
	}},
	{row: "mount(2) inside", see: func(l *look) string { return one(l.said["mount"] == "", "yes", "no") }},
	{row: "/ is a mount", see: func(l *look) string { return one(l.mount["/"] != nil, "yes", "no") }},
	{row: "its options", see: func(l *look) string {
		return l.arena.flags("", l.mount["/"])
	}, adjust: func(cell string, a *arena) string { return a.flags(cell, nil) }},
	{row: "root writes to /", see: func(l *look) string { return l.opened("write") }},
	{row: "covers in /proc", see: func(l *look) string {
		var names []string
		for point := range l.mount {
			if name, ok := strings.CutPrefix(point, "/proc/"); ok {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return one(names == nil, "none", strings.Join(names, " "))
	}, adjust: func(cell string, _ *arena) string { // what this kernel has of it
		names := slices.DeleteFunc(strings.Fields(cell), func(name string) bool {
			_, err := os.Lstat("/proc/" + name)
			return name == "none" || err != nil
		})
		return one(len(names) == 0, "none", strings.Join(names, " "))
	}},
	{row: "root reads /proc/kcore", see: func(l *look) string {
		if l.mount["/proc/kcore"] != nil {
			return "no: covered"
		}
		return one(l.said["kcore"] == "1", "yes", "no: the kernel refuses")
	}, cannot: func() string {
		file, err := os.Open("/proc/kcore")
		if err != nil {
			return err.Error()
		}
		defer file.Close()
		if _, err := file.Read(make([]byte, 1)); err != nil {
			return err.Error()
		}
		return ""
	}},
	{row: "root opens /proc/sys/kernel/core_pattern for writing", see: func(l *look) string { return l.opened("core_pattern") }},
	{row: "/sys", see: func(l *look) string {
		if l.mount["/sys"] == nil {
			return "none"
		}
		return one(slices.Contains(l.mount["/sys"], "ro"), "read-only", "writable")
	}},
	{row: "devices in /dev", see: func(l *look) string { return one(l.said["devices"] == "", "none", l.said["devices"]) }},
	{row: "terminal", see: func(l *look) string {
		return one(l.said["terminal"] == l.said["their terminal"], "the caller's", "its own")
	}},
	{row: "network", see: func(l *look) string {
		return one(l.hostNS("net"), "the host's", one(strings.Contains(l.said["lo"], ",UP"), "lo, up", "lo, down"))
	}},
	{row: "host name", see: func(l *look) string {
		host, _ := os.Hostname()
		return one(l.said["hostname"] == host, "the host's", l.said["hostname"])
	}},
	{row: "process 1", see: func(l *look) string {
		if l.hostNS("pid") {
			return "the host's"
		}
		name, _, _ := strings.Cut(l.said["process1"], " ")
		return one(l.said["pid"] == "1", "the command", name)
	}},
	{row: "processes in /proc", see: func(l *look) string { return one(l.hostNS("pid"), "the host's", l.said["processes"]) }},
	{row: "the caller's variables", see: func(l *look) string { return one(l.said["variable"] == "the caller's", "passed on", "kept out") }},
	{row: "the caller's supplementary groups", see: func(l *look) string {
		groups := strings.Fields(l.said["Groups"])
		return one(slices.Contains(groups, strconv.Itoa(callersGroup)) || slices.Contains(groups, "65534"), "kept", "dropped")
	}},
	{row: "an open directory of the caller's", see: func(l *look) string { return one(l.said["descriptor"] == "", "closed", "passed on") }},
	{row: "memory.max, pids.max", see: func(l *look) string {
		return one(l.said["limits"] == "" || l.said["limits"] == "max max", "none", l.said["limits"])
	}, cannot: func() string {
		controllers, _ := readFile("/sys/fs/cgroup/cgroup.controllers")
		if !unified() || !strings.Contains(controllers, "memory") || !strings.Contains(controllers, "pids") {
			return "it needs cgroup v2"
		}
		return ""
	}},
	{row: "SIGTERM to the program", see: func(l *look) string { return l.told }},
	{row: "kill -9 of the program", see: func(l *look) string { return l.killed }},
	{row: "status when the command is missing", see: func(l *look) string { return l.missing }},
}

// flags are those of a mount's options that say what cannot be done in it. The file system that the tree is on may have some of its own.
func (a *arena) flags(cell string, options []string) string {
	var fs unix.Statfs_t
	must(a.t, unix.Statfs(a.root, &fs))
	var names []string
	for _, flag := range []struct {
		name string
		bit  int64
	}{{"ro", unix.ST_RDONLY}, {"nosuid", unix.ST_NOSUID}, {"nodev", unix.ST_NODEV}, {"noexec", unix.ST_NOEXEC}} {
		if fs.Flags&flag.bit == 0 && (slices.Contains(strings.Fields(cell), flag.name) || slices.Contains(options, flag.name)) {
			names = append(names, flag.name)
		}
	}
	return one(names == nil, "none", strings.Join(names, " "))
}

// callersGroup is a supplementary group of whoever starts the rivals.
const callersGroup = 4

// TestComparison compares the cells with what is to be seen.
func TestComparison(t *testing.T) {
	text, err := os.ReadFile("docs/comparison.md")
	if os.IsNotExist(err) {
		text, err = os.ReadFile("/docs/comparison.md") // the VM
	}
	must(t, err)
	var rivals []*rival
	for _, row := range tableAfter(t, string(text), "<!-- measured: what is run -->")[1:] {
		rivals = append(rivals, &rival{name: row[0], line: strings.Fields(row[1])})
	}
	if _, err := exec.LookPath("runc"); err != nil && os.Getenv(initramfsVariable) != "" {
		t.Log("LEFT OUT: PROGRAMS='runc crun bwrap unshare' ./vm.sh takes the others along")
		return
	}
	table := tableAfter(t, string(text), "<!-- measured: what is seen -->")
	rows := map[string][]string{}
	for _, row := range table[1:] {
		rows[row[0]] = row[1:]
		if !slices.ContainsFunc(measures, func(m measure) bool { return m.row == row[0] }) {
			t.Errorf("docs/comparison.md: row %q is not measured", row[0])
		}
	}
	for i, r := range rivals {
		if i+1 >= len(table[0]) || table[0][i+1] != r.name {
			t.Fatalf("docs/comparison.md: the columns %q are not the programs that are run", table[0])
		}
	}
	underLines(t, string(text))
	a := newArena(t)
	for column, r := range rivals {
		t.Run(strings.ReplaceAll(r.name, " ", "_"), func(t *testing.T) {
			a.t = t
			seen, err := a.look(r)
			if err != nil && r.name == "barco" {
				t.Fatal(err)
			}
			if err != nil { // such as crun, on a machine with both kinds of cgroups
				t.Logf("NOT COMPARED: %s cannot run here: %v", r.name, err)
				return
			}
			for _, m := range measures {
				cells := rows[m.row]
				if column >= len(cells) {
					t.Errorf("docs/comparison.md: row %q has no cell for %s", m.row, r.name)
					continue
				}
				if m.cannot != nil {
					if why := m.cannot(); why != "" {
						t.Logf("NOT COMPARED: %s: this machine cannot tell: %s", m.row, why)
						continue
					}
				}
				want, got := cells[column], m.see(seen)
				if m.adjust != nil {
					want = m.adjust(want, a)
				}
				if got != want {
					t.Errorf("docs/comparison.md: row %q, column %q: the page says %q, and it is %q", m.row, r.name, want, got)
				}
			}
		})
	}
	a.t = t
	for _, left := range a.leftovers() {
		t.Errorf("left behind: %s", left)
	}
}

// underLines checks what the page says of the size of barco's own sources.
func underLines(t *testing.T, page string) {
	t.Helper()
	sources, _ := filepath.Glob("*.go")
	lines := 0
	for _, path := range sources {
		if text, err := os.ReadFile(path); err == nil && !strings.HasSuffix(path, "_test.go") {
			lines += strings.Count(string(text), "\n")
		}
	}
	said := regexp.MustCompile(`under ([0-9,]+) lines of Go`).FindStringSubmatch(page)
	if said == nil {
		t.Fatal("docs/comparison.md does not say how long barco is")
	}
	if most, _ := strconv.Atoi(strings.ReplaceAll(said[1], ",", "")); lines >= most {
		t.Errorf("docs/comparison.md: barco is %q, and it has %d", said[0], lines)
	}
}

// tableAfter is the table that follows a mark on a page: its rows, the heading first, less what only makes it look well.
func tableAfter(t *testing.T, text, mark string) (rows [][]string) {
	t.Helper()
	_, rest, found := strings.Cut(text, mark+"\n")
	for line := range strings.Lines(strings.TrimLeft(rest, "\n")) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		if strings.HasPrefix(line, "| ---") {
			continue
		}
		var cells []string
		for _, cell := range strings.Split(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(strings.NewReplacer("`", "", "*", "").Replace(cell)))
		}
		rows = append(rows, cells)
	}
	if !found || len(rows) < 2 {
		t.Fatalf("docs/comparison.md has no table after %s", mark)
	}
	return rows
}

func newArena(t *testing.T) *arena {
	a := &arena{t: t, root: busyboxRoot(t), dir: t.TempDir()}
	for _, name := range append(slices.Clone(mountPoints), "mnt", "tmp") {
		must(t, os.Mkdir(a.root+"/"+name, 0o755))
	}
	t.Cleanup(a.clean)
	return a
}

// containers are the names that were given to runc and crun, by program.
func (a *arena) containers(program string) []string {
	paths, _ := filepath.Glob(a.dir + "/" + program + "/*")
	return paths
}

// clean removes what runc and crun keep of containers whose runtime was killed.
func (a *arena) clean() {
	for _, program := range []string{"runc", "crun"} {
		for _, path := range a.containers(program) {
			if output, err := exec.Command(program, "--root", a.dir+"/"+program, "delete", "--force", filepath.Base(path)).CombinedOutput(); err != nil {
				a.t.Logf("%s delete: %v: %s", program, err, output)
			}
		}
	}
}

// leftovers are cgroups of theirs, of whatever version, that cannot be removed.
func (a *arena) leftovers() (paths []string) {
	a.clean()
	filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && strings.Contains(entry.Name(), containerPrefix()) {
			if err := os.Remove(path); err != nil { // crun 1.8 forgets the cgroup of a container whose crun was killed
				paths = append(paths, err.Error())
			}
			return filepath.SkipDir
		}
		return nil
	})
	return paths
}

func containerPrefix() string { return fmt.Sprintf("comparison-%d-", os.Getpid()) }

// A visit is one container of a rival's.
type visit struct {
	cmd                           *exec.Cmd
	answers, writer, orders, keys *os.File // our ends of the FIFOs, one that keeps out from ending early, and the terminal's master
	screen                        chan string
	terminal                      string // its device and inode
}

// start starts a container that runs a shell script, or a command that there is not, if the script is empty.
func (a *arena) start(r *rival, script string) *visit {
	a.t.Helper()
	a.starts++
	name := containerPrefix() + strconv.Itoa(a.starts)
	do := []string{"/bin/sh", "-c", script}
	line := slices.Clone(r.line)
	if script == "" {
		do = []string{"/no/such"}
		if i := slices.Index(line, "/bin/sh"); i > 0 {
			line = append(line[:i], do...)
		}
	}
	for i, word := range line {
		switch word {
		case "DIR":
			line[i] = a.root
		case "SCRIPT":
			line[i] = script
		case "STATE":
			line[i] = a.dir + "/" + line[0]
		case "NAME":
			line[i] = name
		case "BUNDLE":
			line[i] = a.dir + "/" + name
			a.defaults(line[0], line[i], do)
		}
	}
	v := &visit{cmd: exec.Command(line[0], line[1:]...), screen: make(chan string, 1)}
	if r.name == "barco" {
		v.cmd = command(line[1:]...)
	}

	for _, path := range []string{a.root + "/in", a.root + "/out"} { // new ones: a command that was killed may still have the last ones open
		os.Remove(path)
		must(a.t, unix.Mkfifo(path, 0o666))
		must(a.t, os.Chmod(path, 0o666))
	}
	var err error
	v.answers, err = os.OpenFile(a.root+"/out", os.O_RDONLY|unix.O_NONBLOCK, 0)
	must(a.t, err)
	v.writer, err = os.OpenFile(a.root+"/out", os.O_WRONLY, 0)
	must(a.t, err)
	v.orders, err = os.OpenFile(a.root+"/in", os.O_RDWR, 0)
	must(a.t, err)
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	must(a.t, err)
	must(a.t, unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0))
	slave, err := openSlave(master)
	must(a.t, err)
	v.keys = os.NewFile(uintptr(master), "ptmx")
	terminal := os.NewFile(uintptr(slave), "terminal")
	defer terminal.Close()
	var stat unix.Stat_t
	must(a.t, unix.Fstat(slave, &stat))
	v.terminal = fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
	go func() {
		text, _ := io.ReadAll(v.keys) // ends with an error, when nobody has the terminal any more
		v.screen <- string(text)
	}()
	directory, err := os.Open("/")
	must(a.t, err)
	defer directory.Close()

	if v.cmd.Env == nil {
		v.cmd.Env = os.Environ()
	}
	v.cmd.Env = append(v.cmd.Env, "COMPARISON=the caller's")
	v.cmd.Stdin, v.cmd.Stdout, v.cmd.Stderr = terminal, terminal, terminal
	v.cmd.ExtraFiles = []*os.File{directory}
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Groups: []uint32{callersGroup}}}
	must(a.t, v.cmd.Start())
	return v
}

// end closes what start has opened, and returns what was on the screen.
func (v *visit) end() string {
	for _, file := range []*os.File{v.answers, v.writer, v.orders} {
		file.Close()
	}
	select {
	case text := <-v.screen:
		v.keys.Close()
		return text
	case <-time.After(10 * time.Second): // somebody still has the terminal
		v.keys.Close()
		return <-v.screen
	}
}

// defaults makes a bundle of what `runc spec` says, or `crun spec`; the tree and the command are all that is changed in it.
func (a *arena) defaults(program, dir string, do []string) {
	a.t.Helper()
	must(a.t, os.Mkdir(dir, 0o755))
	cmd := exec.Command(program, "spec")
	cmd.Dir = dir
	if output, err := cmd.CombinedOutput(); err != nil {
		a.t.Fatalf("%s spec: %v: %s", program, err, output)
	}
	text, err := os.ReadFile(dir + "/config.json")
	must(a.t, err)
	var spec map[string]any
	must(a.t, json.Unmarshal(text, &spec))
	spec["root"].(map[string]any)["path"] = a.root
	spec["process"].(map[string]any)["args"] = do
	text, err = json.Marshal(spec)
	must(a.t, err)
	must(a.t, os.WriteFile(dir+"/config.json", text, 0o644))
}

// look starts containers of a rival's, and looks. The error says why it cannot run on this machine, in its own words.
func (a *arena) look(r *rival) (*look, error) {
	a.t.Helper()
	if _, err := exec.LookPath(r.line[0]); err != nil && r.name != "barco" {
		return nil, err
	}
	l := &look{said: map[string]string{}, mount: map[string][]string{}, arena: a}
	v := a.start(r, lookScript)
	l.said["their terminal"] = v.terminal
	must(a.t, v.answers.SetReadDeadline(time.Now().Add(time.Minute)))
	failed := make(chan error, 1)
	go func() { failed <- v.cmd.Wait(); v.writer.Close() }() // then answers end
	answers := bufio.NewScanner(v.answers)
	answers.Buffer(nil, 1<<20)
	done := false
	for answers.Scan() {
		name, text, _ := strings.Cut(answers.Text(), " ")
		if fields := strings.Fields(text); name == "mountinfo" && len(fields) > 5 {
			l.mount[fields[4]] = strings.Split(fields[5], ",")
		}
		l.said[name] = text
		done = done || name == "end"
	}
	if answers.Err() != nil {
		v.cmd.Process.Kill()
	}
	err := <-failed
	screen := strings.TrimSpace(v.end())
	os.Remove(a.root + "/written")
	if !done {
		return nil, fmt.Errorf("%v, and on the screen %q", err, screen)
	}

	v = a.start(r, "")
	v.cmd.Wait()
	l.missing = strconv.Itoa(v.cmd.ProcessState.ExitCode())
	v.end()
	l.killed = one(a.signal(r, unix.SIGKILL) == "alive", "the command lives on", "the command is killed")
	l.told = one(a.signal(r, unix.SIGTERM) == "told", "passed on", "not passed on")
	return l, nil
}

// signal sends a signal to a rival whose command runs, and returns the command's last words.
func (a *arena) signal(r *rival, signal unix.Signal) string {
	a.t.Helper()
	v := a.start(r, endScript)
	defer v.end()
	must(a.t, v.answers.SetReadDeadline(time.Now().Add(time.Minute)))
	answers := bufio.NewScanner(v.answers)
	if !answers.Scan() || answers.Text() != "ready" {
		v.cmd.Process.Kill()
		a.t.Fatalf("%s: its command is not ready: %q, %v", r.name, answers.Text(), answers.Err())
	}
	v.writer.Close() // from here on, the end of the command is the end of its answers
	must(a.t, v.cmd.Process.Signal(signal))
	if signal == unix.SIGKILL {
		v.cmd.Wait() // by now the kernel has killed who is to die with it
	} else { // nobody tells when a signal is not passed on
		must(a.t, v.answers.SetReadDeadline(time.Now().Add(time.Second)))
		if answers.Scan() {
			v.cmd.Wait()
			return answers.Text()
		}
		must(a.t, v.answers.SetReadDeadline(time.Now().Add(time.Minute)))
		answers = bufio.NewScanner(v.answers)
	}
	v.orders.WriteString("go on\n")
	answers.Scan()
	v.cmd.Wait()
	return answers.Text()
}
