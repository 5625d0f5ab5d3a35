package main

import (
	"encoding/json"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The user namespace (user_namespaces(7)): root inside is an ordinary, powerless user outside. The child is born in it
// without any ids; only the parent, who has CAP_SETUID outside, can say which host ids the inside ones stand for.
//
// Chapter: docs/07-user-namespace.md

// hostIDs is the first host id of the map: the first that systemd's documentation sets aside for containers. idCount is how many follow.
const (
	hostIDs = 524288
	idCount = 65536
)

// An idMap is one line of /proc/PID/uid_map or gid_map.
type idMap struct{ Inside, Outside, Length int }

func (m idMap) String() string { return fmt.Sprintf("%d %d %d", m.Inside, m.Outside, m.Length) }

// chooseIDs decides what the container's ids are on the host. Without root there is only one, and it is whoever started barco.
func (config *Config) chooseIDs() {
	config.HostUID = hostIDs + config.UID
	if config.skips("userns") {
		config.HostUID = config.UID
	}
	if euid := unix.Geteuid(); euid != 0 {
		config.OneID, config.HostUID = true, euid
	}
}

// askForIDMap asks the parent to write the id maps, and waits until it has. The answer brings the seccomp filter, and with --idmap or
// --overlay the root. Child.
func askForIDMap(c *child) error {
	if c.mapped {
		return nil
	}
	info("asking the parent to map user and group ids...")
	if err := c.send(messageMapIDs, nil); err != nil {
		return err
	}
	got, err := c.receive()
	if err != nil {
		return err
	}
	if got.kind != messageMapped || c.rootFromParent() && got.descriptor < 0 || json.Unmarshal(got.payload, &c.filter) != nil {
		return refuse("barco itself is gone")
	}
	c.mapped = true
	if c.rootFromParent() {
		c.root = got.descriptor
	}
	return nil
}

// writeIDMaps maps the container's ids, 0 to 65535, to host ids that belong to nobody. Without root, the kernel allows one
// id, the user's own, and only when setgroups is given up: else a user could drop a group that keeps files from them
// (user_namespaces(7)). The pid cannot have gone to another process: it is the child's until the parent has waited for it. Parent.
func writeIDMaps(config *Config, pid int) error {
	if config.skips("userns") {
		return nil
	}
	uids := idMap{Inside: 0, Outside: hostIDs, Length: idCount}
	gids := uids
	if config.OneID {
		uids = idMap{Inside: config.UID, Outside: config.HostUID, Length: 1}
		gids = idMap{Inside: config.UID, Outside: unix.Getegid(), Length: 1}
		if err := writeExisting(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/setgroups", pid), "deny"); err != nil {
			return in("id map", err)
		}
	}
	info("mapping ids: %d inside is %d outside, and so on for %d ids", uids.Inside, uids.Outside, uids.Length)
	if err := writeExisting(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/uid_map", pid), uids.String()); err != nil {
		return in("id map", err)
	}
	return in("id map", writeExisting(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/gid_map", pid), gids.String()))
}

// becomeOwner has what the child makes from now on belong to root inside (setfsuid(2)): files in a filesystem that the container
// mounted can belong only to ids that the container has. Child, after the id map.
func becomeOwner(c *child) {
	owner := 0
	if c.OneID {
		owner = c.UID // there is no other
	}
	unix.SetfsgidRetGid(owner)
	unix.SetfsuidRetUid(owner) // these two report nothing; did they fail, so would making the first file
	sys(nil, "setfsgid(%d)", owner)
	sys(nil, "setfsuid(%d)", owner)
}

// becomeUser takes on the ids that the command will have, and its own group alone: one that barco was started with would open files to
// it, and one too few as well, those that their mode keeps from that group (CVE-2022-36109). Raw system calls: the library's would
// stop all threads and change the ids of each, but only this one will call execve. Child.
func becomeUser(c *child) error {
	info("becoming uid and gid %d...", c.UID)
	id := uintptr(c.UID)
	group := uint32(c.UID)
	if !c.OneID { // who is not root keeps their groups, which are nobody's inside
		_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&group)), 0)
		if err := sys(errnoOrNil(errno), "setgroups(1, [%d])", group); err != nil {
			return err
		}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, id, id, id)
	if err := sys(errnoOrNil(errno), "setresgid(%d, %d, %d)", id, id, id); err != nil {
		return err
	}
	_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, id, id, id)
	if err := sys(errnoOrNil(errno), "setresuid(%d, %d, %d)", id, id, id); err != nil {
		return err
	}
	return dieWithParent(c)
}

// errnoOrNil is the error of a raw system call, which is nil when the call has succeeded.
func errnoOrNil(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
