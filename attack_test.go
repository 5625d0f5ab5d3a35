package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What somebody inside, or somebody careless outside, might try.

// A pipe that is a standard stream can be opened anew in its own direction, and in that one alone: on the other side of it may
// be a shell of the host's that reads its script.
func TestPipes(t *testing.T) {
	reader, writer, err := os.Pipe()
	must(t, err)
	defer reader.Close()
	fmt.Fprintln(writer, "a line for later")
	writer.Close()
	cmd := command("-q", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c",
		"(echo injected > /dev/stdin) 2>&1; (cat < /dev/stdout) 2>&1; echo to stdout > /dev/stdout; echo to stderr > /dev/stderr; read x < /dev/stdin; echo $x")
	cmd.Stdin = reader
	r := finish(t, cmd)
	equal(t, "standard output", r.stdout, "/bin/sh: can't create /dev/stdin: Permission denied\n/bin/sh: can't open /dev/stdout: Permission denied\nto stdout\na line for later\n")
	equal(t, "standard error", r.stderr, "to stderr\n")
}

// With a directory of the host's as a standard stream, the command could leave its root.
func TestDirectoryAsStandardStream(t *testing.T) {
	cmd := command("-q", "-m", "/", "-c", "/bin/true")
	dir, err := os.Open("/")
	must(t, err)
	defer dir.Close()
	cmd.Stdin = dir
	r := finish(t, cmd)
	if r.status != statusBarcoFailed || !strings.Contains(r.stderr, "standard input is a directory of the host") {
		t.Errorf("%+v", r)
	}
}

// A directory of the host's that barco was started with reaches neither the command nor --workdir (CVE-2024-21626).
func TestInheritedDirectory(t *testing.T) {
	dir, err := os.Open("/")
	must(t, err)
	defer dir.Close()
	for fd := 3; fd < 10; fd++ {
		r := startedWith(t, dir, "-q", "-m", busyboxRoot(t), "-c", "/bin/sh", "--workdir", fmt.Sprintf("/proc/self/fd/%d", fd), "--", "-c", "cd ..; [ ! -e usr ] || echo out")
		if r.stdout != "" {
			t.Errorf("by way of descriptor %d: %+v", fd, r)
		}
		if r := startedWith(t, dir, "-q", "-m", busyboxRoot(t), "-c", fmt.Sprintf("/proc/self/fd/%d/bin/true", fd)); r.status == 0 {
			t.Errorf("the host's program by way of descriptor %d: %+v", fd, r)
		}
	}
}

// startedWith runs a barco that has dir open as each of the descriptors from 3 to 9.
func startedWith(t *testing.T, dir *os.File, args ...string) result {
	cmd := command(args...)
	for range 7 {
		cmd.ExtraFiles = append(cmd.ExtraFiles, dir)
	}
	return finish(t, cmd)
}

// Two containers share neither a session nor a process group, though their ids are the same on the host.
func TestContainersAreApart(t *testing.T) {
	root := busyboxRoot(t)
	cmd := command("-q", "-m", root, "-c", "/bin/sh", "--", "-c", "echo ready; read x; echo alive")
	stdin, stdout := start(t, cmd)
	barco(t, "-q", "-m", root, "-c", "/bin/sh", "--", "-c", "kill -9 0; kill -9 -1")
	fmt.Fprintln(stdin)
	if line, _ := stdout.ReadString('\n'); line != "alive\n" {
		t.Errorf("it said %q", line)
	}
	cmd.Wait()
}

// A program in DIR that was made to confuse whoever reads it is read in bounds, and its text is quoted.
func TestHostileProgram(t *testing.T) {
	root := busyboxRoot(t)
	program := make([]byte, 64+56)
	copy(program, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(program[18:], 62) // e_machine
	binary.LittleEndian.PutUint64(program[32:], 64) // e_phoff
	binary.LittleEndian.PutUint64(program[40:], 64) // e_shoff
	binary.LittleEndian.PutUint16(program[54:], 56) // e_phentsize
	binary.LittleEndian.PutUint16(program[56:], 65535)
	binary.LittleEndian.PutUint32(program[64:], 3)        // PT_INTERP
	binary.LittleEndian.PutUint64(program[64+8:], 1<<62)  // p_offset
	binary.LittleEndian.PutUint64(program[64+32:], 1<<62) // p_filesz
	must(t, os.WriteFile(root+"/evil", program, 0o755))
	must(t, os.Truncate(root+"/evil", 200<<30)) // sparse
	if r := barco(t, "-q", "-m", root, "-c", "/evil"); r.status != statusNotExecutable || strings.Count(r.stderr, "\n") > 3 {
		t.Errorf("%+v", r)
	}
	must(t, os.Symlink("/x\x1b]0;pwned\a\nbarco: hint: run evil", root+"/escape"))
	if r := barco(t, "-q", "-m", root, "-c", "/escape"); r.status != statusNotFound || strings.ContainsAny(r.stderr, "\x1b\a") || strings.Count(r.stderr, "\n") != 2 {
		t.Errorf("%+v", r)
	}
	for range 1000 { // readELF believes nothing
		noise := bytes.Clone(program)
		for range 20 {
			noise[rand.N(len(noise))] = byte(rand.Uint32())
		}
		readELF(noise[:rand.N(len(noise))])
	}
}

// A cgroup that is not barco's stays, whatever it is called.
func TestForeignCgroup(t *testing.T) {
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	for _, name := range []string{"barco-web", "barco-1-2-3", "barco-", "barco-12"} {
		path := top + "/" + name
		must(t, os.Mkdir(path, 0o755))
		barco(t, "-q", "-m", "/", "-c", "/bin/true")
		if err := os.Remove(path); err != nil {
			t.Errorf("%s was removed: %v", path, err)
		}
	}
}

// The lock that tells a living barco's cgroup from a dead one's can be taken by nobody but root: not by another user, nor from inside.
func TestLockOutOfReach(t *testing.T) {
	got := inside(t, busyboxRoot(t), "exec 2>&1; cat /sys/fs/cgroup/cgroup.kill; (: > /sys/fs/cgroup/cgroup.kill); true")
	if strings.Count(got, "Permission denied")+strings.Count(got, "Read-only file system") != 2 {
		t.Errorf("cgroup.kill can be opened inside: %s", got)
	}
	top, err := findCgroup2("/proc/self/mountinfo")
	must(t, err)
	logLevel = levelError
	defer func() { logLevel = levelInfo }()
	group, err := newCgroup(top)
	must(t, err)
	defer group.remove()
	var stat unix.Stat_t
	must(t, unix.Stat(group.path+"/cgroup.kill", &stat))
	if stat.Mode&0o077 != 0 || stat.Uid != 0 {
		t.Errorf("cgroup.kill has mode %o and owner %d", stat.Mode, stat.Uid)
	}
	if _, err := lock(group.path); err == nil {
		t.Error("a second barco got the lock")
	}
}

// The container cannot use up what root may watch: its own limit is lower, and root's is what it was.
func TestInotifyLimit(t *testing.T) {
	const path = "/proc/sys/user/max_inotify_instances"
	before, err := os.ReadFile(path)
	must(t, err)
	for _, skip := range [][]string{nil, {"--skip", "userns"}, {"--skip", "pid"}} {
		want := string(before)
		if skip == nil {
			want = "64\n"
		}
		r := barco(t, append([]string{"-q", "-m", busyboxRoot(t), "-c", "/bin/cat", "-a", path}, skip...)...)
		if skip == nil || skip[1] == "userns" {
			equal(t, strings.Join(skip, " ")+" inside", r.stdout, want)
		}
	}
	after, err := os.ReadFile(path)
	must(t, err)
	equal(t, "on the host", string(after), string(before))
}

// A signal at any moment of a short life: the status says so or is the command's own, and nothing is left.
func TestSignalAtRandom(t *testing.T) {
	root := busyboxRoot(t)
	before := hostState()
	begin := time.Now()
	barco(t, "-q", "-m", root, "-c", "/bin/true")
	whole := time.Since(begin)
	for i := range 60 {
		signal := []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}[i%3]
		cmd := command("-q", "-m", root, "-c", "/bin/sh", "--", "-c", "exit 7")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		must(t, cmd.Start())
		kill := time.AfterFunc(whole/10+rand.N(whole), func() { cmd.Process.Signal(signal) }) // a tenth: before that, Go itself is starting
		cmd.Wait()
		kill.Stop()
		if status := cmd.ProcessState.ExitCode(); status != 7 && status != 128+int(signal) && status != -1 || strings.Contains(stderr.String(), "goroutine") {
			t.Errorf("%v: status %d, and it said %s", signal, status, stderr.String())
		}
	}
	sameHost(t, before)
}

// Nobody reads the narration any more: the container goes on, and nothing is left behind.
func TestBrokenPipe(t *testing.T) {
	before := hostState()
	cmd := command("-v", "-m", busyboxRoot(t), "-c", "/bin/sh", "--", "-c", "exit 7")
	reader, writer, err := os.Pipe()
	must(t, err)
	reader.Close()
	cmd.Stderr = writer
	cmd.Run()
	writer.Close()
	if status := cmd.ProcessState.ExitCode(); status != 7 {
		t.Errorf("status %d", status)
	}
	sameHost(t, before)
}

// A signal that barco's caller had blocked is not blocked for the command.
func TestSignalMask(t *testing.T) {
	cmd := command("-q", "-m", busyboxRoot(t), "-c", "/bin/cat", "-a", "/proc/self/status")
	cmd.Env = append(cmd.Env, situationVariable+"=SIGALRM blocked")
	r := finish(t, cmd)
	equal(t, "SigBlk", statusField(r.stdout, "SigBlk"), "0000000000000000")
}

// The program that the container was started by cannot be overwritten from inside (CVE-2019-5736): it belongs to nobody there, or
// it is a copy that is sealed.
func TestOwnProgram(t *testing.T) {
	root := userRoot(t)
	exe, err := os.Executable()
	must(t, err)
	copyLibraries(t, exe, root) // for the command to run, when it is barco itself
	args := []string{"-q", "-m", root, "-c", "/proc/self/exe", "--env", probeVariable + "=exe"}
	if r := barco(t, args...); !strings.HasPrefix(r.stdout, "true, ") {
		t.Errorf("as root: %+v", r)
	}
	const all = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	r := finish(t, asUser(command(args...)))
	var denied bool
	var seals int
	if _, err := fmt.Sscanf(r.stdout, "%t, seals %v", &denied, &seals); err != nil || seals&all != all {
		t.Errorf("as a user: %+v", r)
	}
}
