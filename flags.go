package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// The command line: what a user can ask for, and what barco answers to a wrong one, which is one line that names the flag and
// what it takes.
//
// Chapter: docs/02-command-line-and-conversation.md

// Config is what the user asked for, as the parent sends it to the child.
type Config struct {
	UID        int         // uid and gid of the command, inside
	HostUID    int         // what UID is on the host
	OneID      bool        // barco is not root, so UID is the only id that exists inside
	Root       bytesText   // host path, absolute and free of symbolic links: what becomes /
	Foreign    bool        // Root belongs to nobody inside
	Argv       []bytesText // Argv[0] is the command, a path inside
	Env        []bytesText
	Workdir    bytesText // a path inside
	IDMap      bool      // shift the owners of Root
	Overlay    limit     // bytes of memory for what is written; 0 without an overlay
	ReadOnly   bool
	Binds      []bind
	Init       bool // start the command below barco's own init
	Hostname   string
	Memory     limit // bytes
	Weight     limit // cpu.weight, 1 to 10000
	Pids       limit // processes and threads
	CapAdd     []cap.Value
	NoNewPrivs bool
	Skip       []string // layers to leave out, see layers
	Check      bool     // no container, but --check
	Rehearsal  bool     // all of a start but its execve, which is what --check does
	Terminal   bool     // give the command a terminal of its own
	Verbose    bool
	Step       bool
	LogJSON    bool
	Quiet      bool
}

// A limit is one cgroup v2 limit. One that was asked for must hold; barco's own default gives way where the kernel cannot enforce it.
type limit struct {
	Max   int64
	Asked bool
}

// layers are what --skip leaves out, beside seccomp:GROUP, and what the container is without.
var layers = []struct{ name, without string }{
	{"userns", "root inside is root on the host"},
	{"mounts", "the command has the host's whole file tree, and DIR is not used"},
	{"pid", "the command sees every process of the host, and can signal those of its user"},
	{"ipc", "the command shares message queues and shared memory with the host"},
	{"net", "the command has the host's network, and reaches its abstract sockets"},
	{"uts", "the command shares the host's name"},
	{"cgroup", "nothing limits memory, processor time and processes"},
	{"caps", "the command keeps every capability in its user namespace"},
	{"seccomp", "the command may enter every system call"},
}

// skips says whether the user asked to leave a layer out.
func (config *Config) skips(layer string) bool { return slices.Contains(config.Skip, layer) }

const help = `Usage: sudo barco -m DIR -c CMD [-a ARG]... [options] [-- ARG...]
  -m, --mnt DIR          the directory that becomes / (required)
  -c, --cmd CMD          the command, an absolute path inside DIR (required)
  -a, --arg ARG          one argument for CMD, repeatable; those after -- follow
  -u, --uid UID          user and group id inside, 0 to 65535 (default 0)
  -t, --tty              give CMD a terminal of its own (default: if barco is on one)
      --init             start CMD below a small init, which reaps and forwards
      --hostname NAME    the container's name (default barcontainer)
      --env NAME=VALUE   set a variable in CMD's environment, repeatable
      --workdir PATH     where CMD starts, a path inside DIR (default /)
      --idmap            root inside owns what root owns in DIR
      --overlay[=SIZE]   what is written goes to memory, and vanishes (default 512m);
      --read-only        or DIR cannot be written, and /tmp is in memory
      --bind SRC:DST[:ro]  show the host's SRC as DST, repeatable
      --memory SIZE  --cpu-weight N  --pids N   limits: 512m, 1G or max (default 1G);
                         1 to 10000 (256); processes and threads, or max (64)
      --cap-add NAME     keep one more capability, such as CAP_NET_ADMIN, repeatable
      --no-new-privs     set-user-ID programs of DIR gain nothing
      --skip LAYER       leave out userns, mounts, pid, ipc, net, uts, cgroup, caps,
                         seccomp, or a part of it: seccomp:GROUP; repeatable
  -v, --verbose  --step  narrate every system call, and its effect; stop before each step
  -q, --quiet  --log-format json   say nothing but errors; one object a line
      --check  --help  --version   --check says whether this machine is able
Example: sudo barco -m / -c /bin/sh -a -c -a 'id; hostname'`

// parseCommandLine turns barco's arguments into a Config; config and error are both nil when there is nothing to run.
func parseCommandLine(args []string) (*Config, error) {
	config := &Config{
		Hostname: "barcontainer",
		Workdir:  "/",
		Memory:   limit{Max: 1 << 30},
		Weight:   limit{Max: 256},
		Pids:     limit{Max: 64},
	}
	var dir, command string
	var arguments, env []string

	flags := pflag.NewFlagSet("barco", pflag.ContinueOnError)
	flags.Usage = func() {} // a wrong flag gets one line, not a page
	flags.StringVarP(&dir, "mnt", "m", "", "")
	flags.StringVarP(&command, "cmd", "c", "", "")
	flags.StringArrayVarP(&arguments, "arg", "a", nil, "")
	flags.FuncP("uid", "u", "", func(s string) (err error) { config.UID, err = parseUID(s); return err })
	flags.Func("hostname", "", func(s string) (err error) { config.Hostname, err = parseHostname(s); return err })
	flags.Func("env", "", func(s string) (err error) { env, err = appendEnv(env, s); return err })
	flags.Func("workdir", "", func(s string) (err error) { config.Workdir, err = parseInsidePath(s); return err })
	flags.BoolVar(&config.Init, "init", false, "")
	flags.BoolVar(&config.IDMap, "idmap", false, "")
	flags.Func("overlay", "", func(s string) (err error) { config.Overlay, err = parseOverlay(s); return err })
	flags.Lookup("overlay").NoOptDefVal = "512m"
	flags.BoolVar(&config.ReadOnly, "read-only", false, "")
	flags.Func("bind", "", func(s string) (err error) { config.Binds, err = appendBind(config.Binds, s); return err })
	flags.Func("memory", "", func(s string) (err error) { config.Memory, err = parseMemory(s); return err })
	flags.Func("cpu-weight", "", func(s string) (err error) { config.Weight, err = parseWeight(s); return err })
	flags.Func("pids", "", func(s string) (err error) { config.Pids, err = parsePids(s); return err })
	flags.Func("cap-add", "", func(s string) (err error) { config.CapAdd, err = appendCap(config.CapAdd, s); return err })
	flags.BoolVar(&config.NoNewPrivs, "no-new-privs", false, "")
	flags.Func("skip", "", func(s string) (err error) { config.Skip, err = appendLayer(config.Skip, s); return err })
	flags.BoolVarP(&config.Terminal, "tty", "t", isTerminal(0) && isTerminal(1), "")
	flags.BoolVarP(&config.Verbose, "verbose", "v", false, "")
	flags.BoolVar(&config.Step, "step", false, "")
	flags.Func("log-format", "", func(s string) (err error) { config.LogJSON, err = parseLogFormat(s); return err })
	flags.BoolVarP(&config.Quiet, "quiet", "q", false, "")
	wantHelp := flags.BoolP("help", "h", false, "")
	wantCheck := flags.Bool("check", false, "")
	wantVersion := flags.Bool("version", false, "")

	if err := flags.Parse(args); err != nil {
		return nil, usageError(err)
	}
	positional, afterDashes := flags.Args(), flags.ArgsLenAtDash()
	switch {
	case *wantHelp:
		fmt.Println(help)
		return nil, nil
	case *wantVersion:
		fmt.Println("barco", version)
		return nil, nil
	case *wantCheck:
		config.Check = true
		return config, nil
	case len(positional) > 0 && afterDashes != 0 && flags.Changed("overlay") && looksLikeSize(positional[0]):
		return nil, refuse("--overlay %s: takes its size after a =, --overlay=%s", positional[0], positional[0])
	case len(positional) > 0 && afterDashes != 0:
		return nil, refuse("%q is not a flag: an argument for the command goes after -a, or after --", positional[0])
	case config.Verbose && config.Quiet:
		return nil, refuse("-v, --verbose and -q, --quiet exclude each other")
	case config.Step && config.Quiet:
		return nil, refuse("--step and -q, --quiet exclude each other")
	case config.Step && config.LogJSON:
		return nil, refuse("--step and --log-format json exclude each other: the one is for people, the other for programs")
	case config.Step && !(isTerminal(0) && isTerminal(2)):
		return nil, refuse("--step: standard input and error are not a terminal, where somebody could hit Enter")
	case config.Terminal && !(isTerminal(0) && isTerminal(1)):
		return nil, refuse("-t, --tty: standard input and output are not a terminal")
	case flags.Changed("tty") && config.Terminal && config.skips("mounts"):
		return nil, refuse("-t, --tty and --skip mounts exclude each other: the terminal comes from a /dev of the container's own")
	case len(config.CapAdd) > 0 && config.UID != 0:
		return nil, refuse("--cap-add and -u %d exclude each other: only root keeps capabilities when it executes a command", config.UID)
	case dir == "":
		return nil, refuse("-m, --mnt is missing: it takes the directory that becomes /, such as -m /")
	case command == "":
		return nil, refuse("-c, --cmd is missing: it takes the command to run, such as -c /bin/sh")
	case !filepath.IsAbs(command):
		return nil, refuse("-c, --cmd %q: takes an absolute path inside the container, such as /bin/sh", command)
	}
	var err error
	if config.Root, err = resolveRoot(dir); err != nil {
		return nil, err
	}
	config.chooseIDs()
	if err := config.senseless(flags.Changed("hostname")); err != nil {
		return nil, err
	}
	var owner unix.Stat_t
	unix.Stat(string(config.Root), &owner)
	own := config.IDMap || owner.Uid >= hostIDs && owner.Uid < hostIDs+idCount
	config.Foreign = !config.skips("userns") && (config.OneID || !own)
	config.Argv = bytesTexts(slices.Concat([]string{command}, arguments, positional))
	config.Env = bytesTexts(mergeEnv(append(defaultEnv(config.UID), env...)))
	for fd, name := range []string{"input", "output", "error"} { // one directory of the host would be a way out: openat(0, "..")
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil, refuse("standard %s is a directory of the host, which the command could leave its root by", name)
		}
	}
	config.Terminal = config.Terminal && !config.skips("mounts") // it comes from a devpts of the container's own
	config.startLog()
	return config, nil
}

// senseless refuses what cannot be had together.
func (config *Config) senseless(named bool) error {
	tree := map[string]bool{"--idmap": config.IDMap, "--overlay": config.Overlay.Max > 0, "--read-only": config.ReadOnly, "--bind": config.Binds != nil}
	for _, flag := range slices.Sorted(maps.Keys(tree)) {
		if tree[flag] && config.skips("mounts") {
			return refuse("%s and --skip mounts exclude each other: without a mount namespace there is no tree to change", flag)
		}
	}
	parts := func(s string) bool { return strings.HasPrefix(s, "seccomp:") }
	switch {
	case config.IDMap && isHosts(string(config.Root)):
		return refuse("--idmap and -m %s exclude each other: root inside would own what root owns on this host, /etc/shadow for one", config.Root)
	case config.skips("cgroup") && (config.Memory.Asked || config.Weight.Asked || config.Pids.Asked):
		return refuse("--skip cgroup excludes --memory, --cpu-weight and --pids: nothing would enforce them")
	case config.skips("caps") && config.CapAdd != nil:
		return refuse("--skip caps and --cap-add exclude each other: all capabilities are kept already")
	case config.skips("uts") && named:
		return refuse("--skip uts and --hostname exclude each other: the name is the host's")
	case config.skips("seccomp") && slices.ContainsFunc(config.Skip, parts):
		return refuse("--skip seccomp and --skip seccomp:GROUP exclude each other: all groups are left out already")
	case config.skips("userns") && config.UID != 0 && !config.OneID:
		return refuse("--skip userns and -u %d exclude each other: who is root no more cannot drop capabilities and load the filter", config.UID)
	case config.IDMap && config.skips("userns"):
		return refuse("--idmap and --skip userns exclude each other: without a user namespace there is no map to shift by")
	case config.IDMap && config.OneID:
		return refuse("--idmap needs root: shifting owners takes powers over the filesystem that DIR is on")
	case config.Overlay.Max > 0 && config.ReadOnly:
		return refuse("--overlay and --read-only exclude each other: either what is written vanishes, or nothing is written")
	case config.Init && config.skips("pid"):
		return refuse("--init and --skip pid exclude each other: an init is process 1 of a pid namespace")
	}
	return nil
}

// isHosts says whether DIR is the host's own tree, by whatever name, or a directory of it that no container should own.
func isHosts(root string) bool {
	var stat, top unix.Stat_t
	same := unix.Stat(root, &stat) == nil && unix.Stat("/", &top) == nil && stat.Dev == top.Dev && stat.Ino == top.Ino
	return same || slices.Contains(strings.Fields("/bin /boot /etc /home /lib /lib32 /lib64 /opt /root /run /sbin /srv /tmp /usr /var"), root)
}

func looksLikeSize(s string) bool {
	_, err := parseMemory(s)
	return err == nil
}

// usageError says what is wrong with a flag in one line.
func usageError(err error) error {
	var value *pflag.InvalidValueError
	var unknown *pflag.NotExistError
	var missing *pflag.ValueRequiredError
	switch {
	case errors.As(err, &value) && value.GetFlag().Value.Type() == "bool":
		return refuse("%s %q: takes true or false", flagName(value.GetFlag()), value.GetValue())
	case errors.As(err, &value):
		return refuse("%s %q: %v", flagName(value.GetFlag()), value.GetValue(), value.Unwrap())
	case errors.As(err, &missing):
		if err := missing.GetFlag().Value.Set(""); err != nil { // the flag's own words
			return refuse("%s %v", flagName(missing.GetFlag()), err)
		}
		return refuse("%s takes a value: see barco --help", flagName(missing.GetFlag()))
	case errors.As(err, &unknown):
		dashes := "--"
		if len(unknown.GetSpecifiedName()) == 1 {
			dashes = "-"
		}
		return refuse("unknown flag %s%s: see barco --help", dashes, printable(unknown.GetSpecifiedName()))
	}
	return refuse("%s: see barco --help", printable(err.Error()))
}

func flagName(flag *pflag.Flag) string {
	if flag.Shorthand == "" {
		return "--" + flag.Name
	}
	return "-" + flag.Shorthand + ", --" + flag.Name
}

// resolveRoot returns the host path of the directory that becomes /, absolute and free of symbolic links.
func resolveRoot(dir string) (bytesText, error) {
	root, err := resolvePath(dir)
	if err == nil {
		var info os.FileInfo
		if info, err = os.Stat(root); err == nil && !info.IsDir() {
			err = unix.ENOTDIR
		}
	}
	var errno unix.Errno
	switch {
	case errors.As(err, &errno):
		return "", refuse("-m, --mnt %q: takes a directory: %v", dir, describe(errno))
	case err != nil:
		return "", refuse("-m, --mnt %q: takes a directory: %v", dir, err)
	case slices.Contains([]string{"/proc", "/sys", "/dev"}, root):
		return "", refuse("-m, --mnt %q: is the kernel's, and no place for a root filesystem", dir)
	}
	return bytesText(root), nil
}

// resolvePath makes a host path absolute and free of symbolic links.
func resolvePath(path string) (string, error) {
	if !filepath.IsAbs(path) {
		here, err := os.Getwd()
		if err != nil {
			return "", fmt.Errorf("the current directory is gone: %w", err)
		}
		path = here + "/" + path // not filepath.Abs, to which "link/.." is "."
	}
	return filepath.EvalSymlinks(path)
}

func parseUID(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16) // 16 bits: the id map is 65536 ids long
	if err != nil {
		return 0, fmt.Errorf("takes a user id, a whole number from 0 to %d", idCount-1)
	}
	return int(n), nil
}

func parseHostname(s string) (string, error) {
	bad := func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.", r)
	}
	if s == "" || len(s) > 64 || strings.IndexFunc(s, bad) >= 0 { // 64: uname(2), __NEW_UTS_LEN
		return "", errors.New("takes a host name of 1 to 64 letters, digits, dots and hyphens")
	}
	return s, nil
}

func appendEnv(env []string, s string) ([]string, error) {
	if strings.IndexByte(s, '=') < 1 {
		return nil, errors.New("takes NAME=VALUE")
	}
	return append(env, s), nil
}

func parseInsidePath(s string) (bytesText, error) {
	if !filepath.IsAbs(s) {
		return "", errors.New("takes an absolute path inside the container")
	}
	return bytesText(s), nil
}

func parseLogFormat(s string) (json bool, err error) {
	if s != "text" && s != "json" {
		return false, errors.New("takes text or json")
	}
	return s == "json", nil
}

// parseOverlay reads the size of an overlay.
func parseOverlay(s string) (limit, error) {
	size, err := parseMemory(s)
	if err != nil || size.Max == math.MaxInt64 || size.Max < 1<<20 {
		return limit{}, errors.New("takes a size such as 512m or 1G, at least 1m (--overlay alone: 512m)")
	}
	return size, nil
}

// appendBind reads SRC:DST, SRC:DST:ro or SRC:DST:rw.
func appendBind(binds []bind, s string) ([]bind, error) {
	rest, readOnly := strings.CutSuffix(s, ":ro")
	source, target, ok := strings.Cut(strings.TrimSuffix(rest, ":rw"), ":")
	if !ok || source == "" || !filepath.IsAbs(target) {
		return nil, errors.New("takes SRC:DST or SRC:DST:ro, where SRC is a path here, and DST an absolute path inside")
	}
	resolved, err := resolvePath(source)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	return append(binds, bind{bytesText(resolved), bytesText(target), readOnly}), nil
}

// parseMemory reads a number of bytes with an optional k, m, g or t: powers of 1024, as in memory.max.
func parseMemory(s string) (limit, error) {
	shift := 0
	digits := strings.TrimRight(s, "kKmMgGtT")
	if len(s) == len(digits)+1 {
		shift = 10 * (1 + strings.IndexByte("kmgt", strings.ToLower(s)[len(digits)]))
		s = digits
	}
	return parseLimit(s, shift, math.MaxInt64, "takes a size such as 512m or 1G (whole numbers, k, m, g or t), or max")
}

func parsePids(s string) (limit, error) {
	return parseLimit(s, 0, 1<<22, "takes a whole number from 1 to 4194304, or max") // 1<<22: PID_MAX_LIMIT
}

func parseWeight(s string) (limit, error) {
	if s == "max" {
		s = ""
	}
	return parseLimit(s, 0, 10000, "takes a whole number from 1 to 10000")
}

// parseLimit reads a whole number, at least 1 and with shift applied at most most, or "max", which is math.MaxInt64.
func parseLimit(s string, shift int, most int64, takes string) (limit, error) {
	if s == "max" {
		return limit{Max: math.MaxInt64, Asked: true}, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || n < 1 || n > uint64(most)>>shift {
		return limit{}, errors.New(takes)
	}
	return limit{Max: int64(n << shift), Asked: true}, nil
}

func appendCap(caps []cap.Value, s string) ([]cap.Value, error) {
	name := strings.ToLower(s)
	if !strings.HasPrefix(name, "cap_") {
		name = "cap_" + name
	}
	value, err := cap.FromName(name)
	if err != nil || value >= cap.MaxBits() {
		return nil, errors.New("takes a capability that this kernel knows, such as CAP_NET_ADMIN: see capabilities(7)")
	}
	return append(caps, value), nil
}

func appendLayer(skip []string, s string) ([]string, error) {
	known := seccompGroups()
	for _, layer := range layers {
		known = append(known, layer.name)
	}
	if !slices.Contains(known, s) {
		return nil, fmt.Errorf("takes one of %s", strings.Join(known, ", "))
	}
	return append(skip, s), nil
}

// mergeEnv keeps the last setting of each variable.
func mergeEnv(env []string) (merged []string) {
	for i, s := range env {
		name, _, _ := strings.Cut(s, "=")
		if !slices.ContainsFunc(env[i+1:], func(later string) bool { return strings.HasPrefix(later, name+"=") }) {
			merged = append(merged, s)
		}
	}
	return merged
}

// defaultEnv is the whole environment of a command: nothing of the host's comes along but the kind of terminal.
func defaultEnv(uid int) []string {
	home := "/"
	if uid == 0 {
		home = "/root"
	}
	env := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + home,
		"container=barco", // how systemd and others recognise a container
	}
	if term := os.Getenv("TERM"); term != "" {
		env = append(env, "TERM="+term)
	}
	return env
}
