package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The last step: barco turns into the command (execve(2)).
//
// Chapter: docs/03-clone-and-re-exec.md

// execCommand hands the container over to the command. It returns only when the kernel will not have it. Child.
func execCommand(c *child) error {
	unix.Umask(0o022)
	sys(nil, "umask(022)")
	none := unix.Sigset_t{} // a signal that barco's caller had blocked is not blocked for the command
	if err := sys(unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil), "rt_sigprocmask(SIG_SETMASK, [])"); err != nil {
		return err
	}
	if err := sys(unix.Chdir(string(c.Workdir)), "chdir(%q)", c.Workdir); err != nil {
		return c.explainAccess(err, string(c.Workdir))
	}
	info("executing %q...", c.Argv)
	if err := c.send(messageExecuting, nil); err != nil {
		return err
	}
	if c.Rehearsal {
		os.Exit(0)
	}
	if err := closeOnExec(); err != nil { // mounts, devices; and our end of the socket, which tells the parent
		return err
	}
	if c.Init {
		return becomeReaper(c)
	}
	logLine(levelDebug, 1, "execve(%q, %q, %q)", c.Argv[0], c.Argv, c.Env) // before it: nobody is here after it
	err := unix.Exec(string(c.Argv[0]), plainStrings(c.Argv), plainStrings(c.Env))
	return explainExec(c, sys(err, "execve(%q)", c.Argv[0]))
}

// explainExec adds to an execve that failed what it meant by that.
func explainExec(c *child, err error) error {
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
// barco's exit status and the hint. What the file says about itself is quoted: it could hold anything, escape sequences too.
func whyNotExecutable(c *child, errno unix.Errno) (status int, hint string) {
	path := string(c.Argv[0])
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		if to, err := os.Readlink(path); err == nil {
			return statusNotFound, fmt.Sprintf("%s is a symbolic link to %q, which does not exist inside %s", path, to, c.Root)
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
	head := make([]byte, 64<<10)
	n, _ := file.ReadAt(head, 0)
	head = head[:n]
	if script, ok := bytes.CutPrefix(head, []byte("#!")); ok { // execve(2), Interpreter scripts
		line, _, _ := bytes.Cut(script, []byte("\n"))
		interpreter, _, _ := strings.Cut(strings.Trim(string(line[:min(len(line), 255)]), " \t"), " ") // a carriage return of DOS stays, and shows
		return statusNotExecutable, fmt.Sprintf("%s is a script for %q, which does not exist inside %s, or is no program of this machine's", path, interpreter, c.Root)
	}
	machine, loader, err := readELF(head)
	here, known := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	switch {
	case err != nil:
		return statusNotExecutable, path + " is neither an ELF program nor a script: a script begins with #! and its interpreter's path"
	case known && machine != here:
		return statusNotExecutable, fmt.Sprintf("%s is a program for another architecture: it is for %v, this machine is %v", path, machine, here)
	case loader != "":
		return statusNotExecutable, fmt.Sprintf("%s needs the loader %q, which does not exist inside %s: copy it and the libraries along, or take a static program", path, loader, c.Root)
	}
	return statusNotExecutable, path + " is an ELF program that this kernel does not take"
}

// readELF returns what a program says it needs: a machine, and a loader, which is empty for a static program (elf(5)). It
// looks at the beginning of the file alone and believes no number in it, as whoever made the container's root made the file too.
func readELF(head []byte) (machine elf.Machine, loader string, err error) {
	var header elf.Header64
	reader := bytes.NewReader(head)
	if err := binary.Read(reader, binary.LittleEndian, &header); err != nil || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) {
		return 0, "", errors.New("not ELF")
	}
	machine = elf.Machine(header.Machine) // at the same place in every class of ELF file
	if elf.Class(header.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 {
		return machine, "", nil
	}
	for i := range uint64(header.Phnum) {
		var program elf.Prog64
		reader.Seek(int64(min(header.Phoff, 1<<20)+i*uint64(binary.Size(program))), io.SeekStart)
		if binary.Read(reader, binary.LittleEndian, &program) != nil {
			break
		}
		if elf.ProgType(program.Type) == elf.PT_INTERP && program.Off < uint64(len(head)) {
			path, _, _ := bytes.Cut(head[program.Off:], []byte{0})
			return machine, string(path[:min(len(path), 255)]), nil
		}
	}
	return machine, "", nil
}
