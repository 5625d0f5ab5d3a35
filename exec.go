package main

import (
	"bufio"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The last step: barco turns into the command (execve(2)).

// execCommand hands the container over to the command. It returns only when the kernel will not have it. Child.
func execCommand(c *child) error {
	unix.Umask(0o022)
	if err := sys(unix.Chdir(c.Workdir), "chdir(%q)", c.Workdir); err != nil {
		return c.explainAccess(err, c.Workdir)
	}
	info("executing %s...", strings.Join(c.Argv, " "))
	if err := c.send(messageExecuting, nil); err != nil {
		return err
	}
	if c.Rehearsal {
		os.Exit(0)
	}
	// Whatever else is open, or was left open by whoever started barco, closes at execve. One open directory of the host
	// would be a way out (CVE-2024-21626). So does our end of the socket, which tells the parent.
	if err := sys(unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC), "close_range(3, ~0, CLOSE_RANGE_CLOEXEC)"); err != nil {
		return err
	}
	err := sys(unix.Exec(c.Argv[0], c.Argv, c.Env), "execve(%q)", c.Argv[0])
	var failure *Failure
	if errors.As(err, &failure) {
		failure.Status, failure.Hint = whyNotExecutable(c, failure.Errno)
	}
	return err
}

// explainAccess adds to a "permission denied" who was denied it: the one thing that a look at the tree from outside does not show.
func (c *child) explainAccess(err error, path string) error {
	var failure *Failure
	if errors.As(err, &failure) && failure.Errno == unix.EACCES {
		failure.Hint = fmt.Sprintf("uid %d inside is uid %d on the host, who may not enter a directory on the way to %s: look at the owner and mode of each, from %s on", c.UID, c.HostUID, path, c.Root)
	}
	return err
}

// whyNotExecutable finds out what execve(2) meant by its errno, which is "no such file" for three different files, and returns
// barco's exit status and the hint.
func whyNotExecutable(c *child, errno unix.Errno) (status int, hint string) {
	path := c.Argv[0]
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		if to, err := os.Readlink(path); err == nil {
			return statusNotFound, fmt.Sprintf("%s is a symbolic link to %s, which does not exist inside %s", path, to, c.Root)
		}
		return statusNotFound, fmt.Sprintf("%s does not exist inside %s: -c takes a path as the container sees it", path, c.Root)
	case err != nil:
		return statusNotExecutable, fmt.Sprintf("uid %d inside, which is uid %d on the host, may not enter a directory on the way to %s", c.UID, c.HostUID, path)
	case info.IsDir():
		return statusNotExecutable, path + " is a directory"
	case !info.Mode().IsRegular():
		return statusNotExecutable, path + " is not a regular file"
	case info.Mode()&0o111 == 0:
		return statusNotExecutable, path + " is not executable: chmod +x it"
	case errno == unix.EACCES:
		return statusNotExecutable, fmt.Sprintf("%s may not be executed by uid %d inside, which is uid %d on the host: look at its mode, or at its interpreter's, and whether it is mounted noexec", path, c.UID, c.HostUID)
	case errno == unix.E2BIG:
		return statusNotExecutable, "" // the table knows
	}
	file, err := os.Open(path)
	if err != nil {
		return statusNotExecutable, fmt.Sprintf("%s cannot be read to say why: %v", path, err)
	}
	defer file.Close()
	line, _ := bufio.NewReader(io.LimitReader(file, 256)).ReadBytes('\n')
	if script, ok := bytes.CutPrefix(line, []byte("#!")); ok {
		interpreter, _, _ := strings.Cut(strings.TrimSpace(string(script)), " ")
		return statusNotExecutable, fmt.Sprintf("%s is a script for %q, which does not exist inside %s, or is no program of this machine's", path, interpreter, c.Root)
	}
	program, err := elf.NewFile(file)
	if err != nil {
		return statusNotExecutable, path + " is neither an ELF program nor a script: a script begins with #! and its interpreter's path"
	}
	if here, ok := elfMachines[runtime.GOARCH]; ok && program.Machine != here {
		return statusNotExecutable, fmt.Sprintf("%s is a program for another architecture: it is for %v, this machine is %v", path, program.Machine, here)
	}
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			loader, _ := io.ReadAll(io.LimitReader(p.Open(), unix.PathMax))
			return statusNotExecutable, fmt.Sprintf("%s needs the loader %s, which does not exist inside %s: copy it and the libraries along, or take a static program", path, bytes.TrimRight(loader, "\x00"), c.Root)
		}
	}
	return statusNotExecutable, path + " is an ELF program that this kernel does not take"
}

var elfMachines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
