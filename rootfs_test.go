package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// DIR on its way to /: --idmap, --overlay, --read-only, --bind.

// fingerprint is all there is to know of a tree, but for the times at which it was read.
func fingerprint(t *testing.T, root string) string {
	t.Helper()
	hash := sha256.New()
	must(t, filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		fmt.Fprintln(hash, path, stat.Mode, stat.Uid, stat.Gid, stat.Size, stat.Mtim, stat.Ctim)
		if entry.Type().IsRegular() {
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer file.Close()
			_, err = io.Copy(hash, file)
			return err
		}
		return nil
	}))
	return fmt.Sprintf("%x", hash.Sum(nil))
}

// ownersOf returns the owner and group of a file on the host.
func ownersOf(t *testing.T, path string) string {
	t.Helper()
	var stat unix.Stat_t
	must(t, unix.Lstat(path, &stat))
	return fmt.Sprintf("%d:%d", stat.Uid, stat.Gid)
}

// rootsTree is a tree as root unpacks one: root's, with a file for root alone, and one of somebody else's.
func rootsTree(t *testing.T) string {
	root := userRoot(t)
	must(t, os.Mkdir(root+"/etc", 0o755))
	must(t, os.WriteFile(root+"/etc/shadow", []byte("secret\n"), 0o600))
	must(t, os.WriteFile(root+"/etc/theirs", []byte("theirs\n"), 0o640))
	must(t, os.Chown(root+"/etc/theirs", 1000, 42))
	must(t, os.WriteFile(root+"/etc/foreign", nil, 0o644))
	must(t, os.Chown(root+"/etc/foreign", 70000, 70000)) // an id that the container does not have
	must(t, os.Mkdir(root+"/tmp", 0))
	must(t, unix.Chmod(root+"/tmp", 0o1777))
	return root
}

func TestIDMap(t *testing.T) {
	root := rootsTree(t)
	equal(t, "without it", inside(t, root, "stat -c %u /etc/shadow; cat /etc/shadow 2>&1; touch /etc/new 2>&1; true"),
		"65534\ncat: can't open '/etc/shadow': Permission denied\ntouch: /etc/new: Permission denied\n")
	equal(t, "inside", inside(t, root, `
		stat -c %u:%g / /etc/shadow /etc/theirs /etc/foreign
		cat /etc/shadow
		touch /etc/new && chown 5:6 /etc/new && touch /etc/roots && mkdir /etc/dir && mv /etc/theirs /etc/moved
		chown 5 /etc/foreign 2>&1
		true`, "--idmap"),
		"0:0\n0:0\n1000:42\n65534:65534\nsecret\nchown: /etc/foreign: Operation not permitted\n")
	for name, want := range map[string]string{"etc/shadow": "0:0", "etc/new": "5:6", "etc/roots": "0:0", "etc/dir": "0:0", "etc/moved": "1000:42", "etc/foreign": "70000:70000"} {
		equal(t, name+" on disk", ownersOf(t, root+"/"+name), want)
	}
	equal(t, "as another user", inside(t, root, "cat /etc/shadow 2>&1; cat /etc/moved; touch /tmp/mine", "--idmap", "-u", "1000"),
		"cat: can't open '/etc/shadow': Permission denied\ntheirs\n")
	equal(t, "their file on disk", ownersOf(t, root+"/tmp/mine"), "1000:1000")
	must(t, os.Chmod(root, 0o700)) // nobody else may enter it, and root inside need not be anybody else
	equal(t, "a DIR of root's alone", inside(t, root, "cat /etc/shadow", "--idmap"), "secret\n")
}

// The set-user-ID programs of a tree that is the container's own work, unless --no-new-privs.
func TestSetUserIDWithIDMap(t *testing.T) {
	root := probeRoot(t)
	must(t, unix.Chmod(root+"/bin/probe", 0o4755))
	args := []string{"-q", "-m", root, "--idmap", "-u", "1000", "-c", "/bin/probe", "--env", probeVariable + "=ids"}
	equal(t, "by default", barco(t, args...).stdout, "uid 1000 0 0 0, capabilities 00000000000425eb\n")
	equal(t, "with --no-new-privs", barco(t, append(args, "--no-new-privs")...).stdout, "uid 1000 1000 1000 1000, capabilities 0000000000000000\n")
}

func TestOverlay(t *testing.T) {
	root := rootsTree(t)
	must(t, os.Mkdir(root+"/data", 0o777))
	must(t, os.Chmod(root+"/data", 0o777))
	must(t, os.WriteFile(root+"/data/file", []byte("first\n"), 0o666))
	must(t, os.Chmod(root+"/data/file", 0o666))
	for _, name := range mountPoints { // which the container's own layer will have
		must(t, os.Remove(root+"/"+name))
	}
	before := fingerprint(t, root)
	const script = "echo second >> /data/file; cat /data/file; echo new > /data/new; mv /data/new /data/newer; rm /data/file; touch /tmp/x; ls /data /tmp; mkdir /made; ls -d /made"
	for _, args := range [][]string{{"--overlay"}, {"--overlay=8m"}, {"--overlay", "--idmap"}, {"--overlay", "-u", "1000"}} {
		want := "first\nsecond\n/data:\nnewer\n\n/tmp:\nx\n"
		if slices.Contains(args, "--idmap") { // else / is not root's inside
			want += "/made\n"
		}
		got := inside(t, root, "exec 2>/dev/null; "+script+"; true", args...)
		equal(t, strings.Join(args, " "), got, want)
		equal(t, "DIR after "+strings.Join(args, " "), fingerprint(t, root), before)
	}
	equal(t, "with --idmap", inside(t, root, "echo more >> /etc/shadow; cat /etc/shadow; chown 5 /etc/theirs; stat -c %u:%g /etc/theirs; rm -r /data; ls -d /data 2>&1; true", "--overlay", "--idmap"),
		"secret\nmore\n5:42\nls: /data: No such file or directory\n")
	equal(t, "DIR after that", fingerprint(t, root), before)
	got := inside(t, root, "dd if=/dev/zero of=/data/big bs=1M count=5 2>&1 | tail -n 1; ls -l /data/big | tr -s ' ' | cut -d ' ' -f 5", "--overlay=2m")
	if !strings.HasSuffix(got, "\n") || strings.Contains(got, "5242880") {
		t.Errorf("more than the layer holds: %q", got)
	}
	must(t, exec.Command("chown", "-R", "1000:1001", root).Run()) // a user's own tree
	before = fingerprint(t, root)
	if r := finish(t, asUser(command("-q", "-m", root, "--overlay", "-c", "/bin/sh", "--", "-c", script))); r.stdout != "first\nsecond\n/data:\nnewer\n\n/tmp:\nx\n/made\n" {
		t.Errorf("without root: %+v", r)
	}
	equal(t, "a user's DIR", fingerprint(t, root), before)
}

// On the host's own tree.
func TestOverlayOnTheHost(t *testing.T) {
	name := fmt.Sprintf("/tmp/TestOverlay%d", os.Getpid())
	equal(t, "inside", inside(t, "/", "echo x > "+name+" && cat "+name, "--overlay"), "x\n")
	if _, err := os.Lstat(name); err == nil {
		t.Errorf("%s is on the host", name)
	}
	r := barco(t, "-m", "/", "--overlay", "-c", "/bin/true")
	if points := mountedBelow("/", readAll(t, "/proc/self/mountinfo")); (points != nil) != strings.Contains(r.stderr, "not those that are mounted below it: ") {
		t.Errorf("%v are mounted below, and it says\n%s", points, r.stderr)
	}
}

// Without root the kernel makes no overlay of a tree that has others mounted in it.
func TestOverlayOfAUserOnTheHost(t *testing.T) {
	r := finish(t, asUser(command("-q", "-m", "/", "--overlay", "-c", "/bin/true")))
	if r.status != statusBarcoFailed || !strings.Contains(r.stderr, "FSCONFIG_CMD_CREATE): invalid argument (EINVAL)\nbarco: hint: likely other filesystems are mounted in DIR") {
		t.Errorf("%+v", r)
	}
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func TestMountedBelow(t *testing.T) {
	const mountinfo = "1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /home rw - ext4 b rw\n3 1 0:5 / /proc rw - proc p rw\n4 3 0:6 / /proc/bus rw - x y rw\n5 2 8:3 / /home/a\\040b rw - ext4 c rw\n"
	equal(t, "below /", fmt.Sprint(mountedBelow("/", mountinfo)), "[/home /home/a b]")
	equal(t, "below /home", fmt.Sprint(mountedBelow("/home", mountinfo)), "[/home/a b]")
	equal(t, "below /home/a", fmt.Sprint(mountedBelow("/home/a", mountinfo)), "[]")
}

func TestReadOnly(t *testing.T) {
	root := rootsTree(t)
	must(t, os.Chmod(root+"/etc", 0o777))
	must(t, os.Mkdir(root+"/below", 0o777))
	const script = `exec 2>&1; for f in /f /etc/f /below/f /bin/f; do echo x > $f; done; echo x > /tmp/f && cat /tmp/f; echo gone > /dev/null; mount -o remount,rw /`
	cmd := inSituation("a tmpfs below DIR", "-q", "-m", root, "--read-only", "-c", "/bin/sh", "--", "-c", script)
	cmd.Env = append(cmd.Env, belowVariable+"="+root+"/below")
	r := finish(t, cmd)
	if strings.Count(r.stdout, "Read-only file system") != 4 || !strings.Contains(r.stdout, "\nx\n") || strings.Contains(r.stdout, "gone") || r.status == 0 {
		t.Errorf("%+v", r)
	}
	if got := inside(t, root, "touch /etc/f 2>&1; touch /tmp/f && echo done", "--read-only", "--idmap"); got != "touch: /etc/f: Read-only file system\ndone\n" {
		t.Errorf("with --idmap: %q", got)
	}
	if got := inside(t, "/", "touch /tmp/f && ls /tmp; touch /etc/f 2>&1; true", "--read-only"); !strings.HasPrefix(got, "f\ntouch: ") || !strings.Contains(got, "Read-only file system") {
		t.Errorf("on the host's tree: %q", got)
	}
}

func TestBind(t *testing.T) {
	root := rootsTree(t)
	secret := t.TempDir() // only root may enter it
	must(t, os.Chmod(secret, 0o700))
	source := secret + "/source"
	must(t, os.MkdirAll(source+"/sub", 0o777))
	must(t, os.Chmod(source, 0o777))
	must(t, os.WriteFile(source+"/file", []byte("content\n"), 0o666))
	must(t, os.Chmod(source+"/file", 0o666))
	must(t, unix.Mknod(source+"/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	must(t, os.Mkdir(root+"/mnt", 0o755))
	must(t, os.Mkdir(root+"/srv", 0o755))
	must(t, os.WriteFile(root+"/one", nil, 0o644))
	must(t, os.Symlink("/srv", root+"/absolute"))
	must(t, os.Symlink("/dev", root+"/to-dev"))
	must(t, os.Symlink("/", root+"/to-root"))
	must(t, os.Mkdir(root+"/dev/shm", 0o755))
	must(t, os.Symlink("../../../../srv", root+"/upwards"))

	equal(t, "a directory", inside(t, root, "cat /mnt/file; echo more > /mnt/new; cat /mnt/zero 2>&1; ls /mnt", "--bind", source+":/mnt"),
		"content\ncat: can't open '/mnt/zero': Permission denied\nfile\nnew\nsub\nzero\n")
	equal(t, "written", readAll(t, source+"/new"), "more\n")
	must(t, os.Remove(source+"/new"))
	equal(t, "read-only", inside(t, root, "cat /mnt/file; touch /mnt/new 2>&1; true", "--bind", source+":/mnt:ro"), "content\ntouch: /mnt/new: Read-only file system\n")
	equal(t, "a file", inside(t, root, "cat /one", "--bind", source+"/file:/one:ro"), "content\n")
	equal(t, "two", inside(t, root, "cat /one /srv/file", "--bind", source+"/file:/one", "--bind", source+":/srv:rw"), "content\ncontent\n")
	for _, link := range []string{"/absolute", "/upwards", "/mnt/../absolute", "/../../srv"} { // each is /srv inside
		equal(t, link, inside(t, root, "cat /srv/file", "--bind", source+":"+link), "content\n")
	}
	for _, test := range []struct{ bind, want string }{
		{source + ":/no/such", "--bind does not make its DST"},
		{source + ":/one", "SRC and DST of a --bind are both directories, or neither is"},
		{source + "/file:/mnt", "SRC and DST of a --bind are both directories, or neither is"},
		{source + "/none:/mnt", "no such file or directory"},
		{source + ":/proc", "--bind: /proc leads to /proc, which is barco's own"},
		{source + ":/", "--bind: / leads to /, which is barco's own"},
		{source + ":/to-dev/shm", "--bind: /to-dev/shm leads to /dev/shm, which is barco's own"},
		{source + ":/to-root", "--bind: /to-root leads to /, which is barco's own"},
		{source + ":mnt", "takes SRC:DST"},
		{source, "takes SRC:DST"},
	} {
		r := barco(t, "-q", "-m", root, "--bind", test.bind, "-c", "/bin/true")
		if r.status != statusBarcoFailed || !strings.Contains(r.stderr, test.want) {
			t.Errorf("--bind %s: %+v", test.bind, r)
		}
	}
	for _, args := range [][]string{{"--bind", source + ":/srv", "--bind", source + ":/absolute"}, {"--read-only", "--bind", source + ":/tmp"}} {
		if r := barco(t, append(args, "-q", "-m", root, "-c", "/bin/true")...); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "which is barco's own, or has a bind already") {
			t.Errorf("%v: %+v", args, r)
		}
	}
	equal(t, "with --init", inside(t, root, "cat /mnt/file", "--init", "--bind", source+":/mnt"), "content\n")
	status := inside(t, root, "mount | grep ' /mnt '", "--bind", source+":/mnt")
	if !strings.Contains(status, "nosuid,nodev") {
		t.Errorf("a bind is mounted %s", status)
	}
	must(t, os.Chmod(secret, 0o755))
	if r := finish(t, asUser(command("-q", "-m", root, "--overlay", "--bind", "/proc/version:/one", "-c", "/bin/cat", "-a", "/one"))); r.stdout != readAll(t, "/proc/version") {
		t.Errorf("a file of the host's /proc, without root: %+v", r)
	}
	r := finish(t, asUser(command("-q", "-m", root, "--bind", source+":/mnt:ro", "-c", "/bin/sh", "--", "-c", "cat /mnt/file; touch /mnt/new")))
	if r.stdout != "content\n" || !strings.Contains(r.stderr, "Read-only file system") {
		t.Errorf("without root: %+v", r)
	}
}

func TestCombinations(t *testing.T) {
	root := userRoot(t)
	for _, test := range []struct{ args, want string }{
		{"-m|/|--idmap", "--idmap and -m / exclude each other: root inside would own what root owns on this host"},
		{"-m|" + root + "|--idmap|--skip|userns", "--idmap and --skip userns exclude each other"},
		{"-m|" + root + "|--idmap|--skip|mounts", "--idmap and --skip mounts exclude each other"},
		{"-m|" + root + "|--overlay|--skip|mounts", "--overlay and --skip mounts exclude each other"},
		{"-m|" + root + "|--read-only|--skip|mounts", "--read-only and --skip mounts exclude each other"},
		{"-m|" + root + "|--bind|/etc:/mnt|--skip|mounts", "--bind and --skip mounts exclude each other"},
		{"-m|" + root + "|--overlay|--read-only", "--overlay and --read-only exclude each other"},
		{"-m|" + root + "|--init|--skip|pid", "--init and --skip pid exclude each other"},
		{"-m|" + root + "|--overlay=0", `--overlay "0": takes a size such as 512m`},
		{"-m|" + root + "|--overlay=max", `--overlay "max": takes a size`},
		{"-m|" + root + "|--overlay|64m", "--overlay 64m: takes its size after a =, --overlay=64m"},
		{"-m|" + root + "|--skip|cgroup|--pids|9", "--skip cgroup excludes --memory, --cpu-weight and --pids"},
		{"-m|" + root + "|--skip|caps|--cap-add|NET_ADMIN", "--skip caps and --cap-add exclude each other"},
		{"-m|" + root + "|--skip|uts|--hostname|x", "--skip uts and --hostname exclude each other"},
		{"-m|" + root + "|--skip|seccomp|--skip|seccomp:tty", "--skip seccomp and --skip seccomp:GROUP exclude each other"},
		{"-m|" + root + "|--skip|userns|-u|1000", "--skip userns and -u 1000 exclude each other"},
		{"-m|/etc|--idmap", "--idmap and -m /etc exclude each other"},
	} {
		r := barco(t, append(strings.Split(test.args, "|"), "-c", "/bin/true")...)
		if r.status != statusBarcoFailed || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, test.want) {
			t.Errorf("%s: %+v\nwant %s", test.args, r, test.want)
		}
	}
	if r := finish(t, asUser(command("-m", root, "--idmap", "-c", "/bin/true"))); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "--idmap needs root") {
		t.Errorf("--idmap without root: %+v", r)
	}
}

// On a host whose mounts are shared, as systemd makes them, none of the container's appears outside, and none of the host's inside.
func TestSharedMounts(t *testing.T) {
	root := rootsTree(t)
	must(t, os.Mkdir(root+"/mnt", 0o755))
	source := t.TempDir()
	exe, err := os.Executable()
	must(t, err)
	for _, args := range []string{"", "--idmap", "--overlay", "--idmap --overlay", "--read-only", "--bind " + source + ":/mnt", "--idmap --bind " + source + ":/mnt"} {
		cmd := command()
		cmd.Path, err = exec.LookPath("unshare")
		must(t, err)
		cmd.Args = []string{"unshare", "-m", "sh", "-c", `
			mount --make-rshared / && mount -t tmpfs shared "$1" && mount --make-shared "$1" || exit 1
			before=$(cat /proc/self/mountinfo)
			shift
			"$@" -q -m "$root" -c /bin/cat -a /proc/self/mountinfo || exit 1
			[ "$(cat /proc/self/mountinfo)" = "$before" ] || { echo left behind; cat /proc/self/mountinfo; }`, "sh", source, exe}
		cmd.Args = append(cmd.Args, strings.Fields(args)...)
		cmd.Env = append(cmd.Env, "root="+root)
		if r := finish(t, cmd); r.status != 0 || strings.Contains(r.stdout, "left behind") || strings.Contains(r.stdout, "shared:") || strings.Contains(r.stdout, "master:") {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

// A directory above DIR that is somebody else's: they put a link in DIR's place, and it is not followed.
func TestLinkInPlaceOfTheRoot(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/target", 0o755))
	must(t, os.Symlink("target", dir+"/root"))
	if mount, err := cloneTree(dir+"/root", unix.O_DIRECTORY); err == nil {
		unix.Close(mount)
		t.Error("the link was followed")
	} else if !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
}

// The host's tree by another name is still the host's.
func TestIDMapOfTheHostsTree(t *testing.T) {
	cmd := inSituation("/ below DIR", "-q", "--idmap", "-c", "/bin/true")
	below := t.TempDir()
	cmd.Args = append(cmd.Args, "-m", below)
	cmd.Env = append(cmd.Env, belowVariable+"="+below)
	if r := finish(t, cmd); r.status != statusBarcoFailed || !strings.Contains(r.stderr, "--idmap and -m "+below+" exclude each other") {
		t.Errorf("%+v", r)
	}
}

// make rootfs
func TestRootfs(t *testing.T) {
	if _, err := os.Stat("rootfs.sh"); err != nil {
		t.Log("not here: the VM has no rootfs.sh")
		return
	}
	dir := t.TempDir() + "/root"
	if out, err := exec.Command("./rootfs.sh", dir).CombinedOutput(); err != nil || !strings.Contains(string(out), "sudo ./barco -m "+dir) {
		t.Fatalf("%v: %s", err, out)
	}
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	equal(t, "inside", inside(t, dir, "id -un; id -gn; ls -d ~; which vi top reset; touch /etc/x && echo wrote; su user -c 'id -un'; wc -l < /etc/hosts", "--idmap"),
		"root\nroot\n/root\n/bin/vi\n/usr/bin/top\n/usr/bin/reset\nwrote\nuser\n2\n")
	equal(t, "on disk", ownersOf(t, dir+"/etc/x"), "0:0")
	if out, err := exec.Command("./rootfs.sh", filepath.Dir(dir)).CombinedOutput(); err == nil || !strings.Contains(string(out), "is none of mine") {
		t.Errorf("over a directory of somebody else's: %v: %s", err, out)
	}
}

// A tree of Debian's own, in which packages can be installed: the real thing, with the network of the host.
func TestDebian(t *testing.T) {
	if _, err := exec.LookPath("debootstrap"); err != nil {
		t.Log("not here: no debootstrap, which make test installs where there is apt-get")
		return
	}
	must(t, os.MkdirAll(".vm", 0o755))
	debian, err := filepath.Abs(".vm/debian")
	must(t, err)
	if _, err := os.Stat(debian + "/done"); err != nil {
		must(t, os.RemoveAll(debian))
		t.Log("making .vm/debian with debootstrap, once")
		out, err := exec.Command("debootstrap", "--variant=minbase", "stable", debian).CombinedOutput()
		if err != nil {
			t.Fatalf("%v:\n%s", err, out[max(0, len(out)-2000):])
		}
		must(t, os.WriteFile(debian+"/done", nil, 0o644))
	}
	before := fingerprint(t, debian)
	apt := []string{"-q", "-m", debian, "--idmap", "--overlay=1G", "--skip", "net", "--skip", "seccomp:setid", "--bind", "/etc/resolv.conf:/etc/resolv.conf:ro", "--memory", "max", "--pids", "max", "-c", "/bin/sh", "--", "-c"}
	r := finish(t, command(append(apt, "apt-get update -qq && apt-get install -y -qq --no-install-recommends hello sudo >/dev/null && hello && stat -c %a:%u /usr/bin/sudo")...))
	if r.status != 0 || r.stdout != "Hello, world!\n4755:0\n" {
		t.Errorf("apt-get: %+v", r)
	}
	equal(t, "DIR", fingerprint(t, debian), before)
}
