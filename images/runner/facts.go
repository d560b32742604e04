package main

import (
	"bufio"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
)

// node is node.json: where the command ran.
type node struct {
	Attempt int    `json:"attempt"`
	Host    string `json:"host"`
	Pod     string `json:"pod"`
	CPU     struct {
		Model string  `json:"model"`
		Count int     `json:"count"`
		Limit float64 `json:"limit"` // what the run may use of them
	} `json:"cpu"`
	MemoryBytes int64  `json:"memory_bytes"`
	Kernel      string `json:"kernel"`
	// Of the image, not of the node.
	System  string `json:"system"`
	Runtime string `json:"container_runtime,omitempty"`
	Driver  string `json:"gpu_driver,omitempty"`
	GPUs    []gpu  `json:"gpus"`
	Network struct {
		Interfaces []nic    `json:"interfaces"`
		InfiniBand []string `json:"infiniband,omitempty"`
	} `json:"network"`
	// How /lab is mounted, with the address that shows over which network.
	Tree string `json:"tree,omitempty"`
}

type gpu struct {
	Index     string `json:"index"`
	Name      string `json:"name"`
	UUID      string `json:"uuid"`
	MemoryMiB string `json:"memory_mib"`
}

type nic struct {
	Name  string `json:"name"`
	MTU   int    `json:"mtu"`
	Speed string `json:"speed_mbit,omitempty"`
}

func nodeFacts(where location) node {
	facts := node{Attempt: where.attempt, Host: os.Getenv("LABCLUSTER_NODE"), GPUs: []gpu{}}
	facts.Pod, _ = os.Hostname()
	facts.CPU.Model = cpuModel()
	facts.CPU.Count = runtime.NumCPU()
	facts.CPU.Limit = round(openCgroup("/sys/fs/cgroup").cpus())
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		facts.MemoryBytes = int64(info.Totalram) * int64(info.Unit)
	}
	facts.Kernel = firstLine("/proc/sys/kernel/osrelease")
	facts.System = systemName()
	facts.Runtime = containerRuntime()
	rows, _ := nvidiaSMI("index,name,uuid,memory.total,driver_version")
	for _, row := range rows {
		if len(row) == 5 {
			facts.GPUs = append(facts.GPUs, gpu{row[0], row[1], row[2], row[3]})
			facts.Driver = row[4]
		}
	}
	if interfaces, err := net.Interfaces(); err == nil {
		for _, one := range interfaces {
			if one.Flags&net.FlagLoopback == 0 {
				speed := strings.TrimPrefix(firstLine(filepath.Join("/sys/class/net", one.Name, "speed")), "-1")
				facts.Network.Interfaces = append(facts.Network.Interfaces, nic{one.Name, one.MTU, speed})
			}
		}
	}
	devices, _ := filepath.Glob("/sys/class/infiniband/*")
	for _, device := range devices {
		facts.Network.InfiniBand = append(facts.Network.InfiniBand, filepath.Base(device))
	}
	facts.Tree = mountOf("/lab")
	return facts
}

func firstLine(path string) string {
	text, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSpace(line)
}

func cpuModel() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if key, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func systemName() string {
	text, _ := os.ReadFile("/etc/os-release")
	for _, entry := range strings.Split(string(text), "\n") {
		if value, found := strings.CutPrefix(entry, "PRETTY_NAME="); found {
			return strings.Trim(value, `"`)
		}
	}
	return ""
}

// containerRuntime is told by where the layers of the root file system are.
func containerRuntime() string {
	for _, mount := range mounts() {
		if mount.at == "/" {
			switch {
			case strings.Contains(mount.options, "containerd"):
				return "containerd"
			case strings.Contains(mount.options, "/containers/storage"):
				return "cri-o"
			}
		}
	}
	return ""
}

func mountOf(path string) string {
	for _, mount := range mounts() {
		if mount.at == path {
			return strings.Join([]string{mount.kind, mount.device, mount.options}, " ")
		}
	}
	return ""
}

type mount struct{ device, at, kind, options string }

func mounts() []mount {
	text, _ := os.ReadFile("/proc/self/mounts")
	var found []mount
	for _, entry := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(entry); len(fields) >= 4 {
			found = append(found, mount{fields[0], fields[1], fields[2], fields[3]})
		}
	}
	return found
}

// packages is packages.json. What is installed is told by the names of folders: nothing of the user's is started.
type packages struct {
	Python   string            `json:"python"`
	Version  string            `json:"version"`
	Packages map[string]string `json:"packages"`
}

var (
	pythonName   = regexp.MustCompile(`^(?:pypy|python)[0-9.]*$`)
	pythonFolder = regexp.MustCompile(`^(?:pypy|python)([0-9]+\.[0-9]+)$`)
	metadataName = regexp.MustCompile(`^(.+?)(?:-([0-9][^-]*))?(?:-py[0-9.]+)?\.(?:dist|egg)-info$`)
	separators   = regexp.MustCompile(`[-_.]+`)
)

func pythonPackages(command []string) packages {
	found := packages{Packages: map[string]string{}}
	found.Python = pythonOf(command)
	if found.Python == "" {
		return found
	}
	folders := strings.Split(os.Getenv("PYTHONPATH"), ":")
	sites, version := siteFolders(found.Python)
	found.Version = version
	for _, folder := range append(folders, sites...) {
		if folder == "" {
			continue
		}
		entries, _ := os.ReadDir(folder)
		for _, entry := range entries {
			match := metadataName.FindStringSubmatch(entry.Name())
			if match == nil {
				continue
			}
			name := strings.ToLower(separators.ReplaceAllString(match[1], "-"))
			// The first on the path is the one that is imported.
			if _, earlier := found.Packages[name]; !earlier {
				found.Packages[name] = match[2]
			}
		}
	}
	return found
}

// pythonOf finds the Python that the command is, names in its first line, or would find in PATH.
func pythonOf(command []string) string {
	look := func(name string) string {
		if strings.Contains(name, "/") {
			if path, err := filepath.Abs(name); err == nil {
				if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
					return path
				}
			}
			return ""
		}
		for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
			path := filepath.Join(folder, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return path
			}
		}
		return ""
	}
	if len(command) > 0 {
		path := look(command[0])
		if pythonName.MatchString(filepath.Base(path)) {
			return path
		}
		words := strings.Fields(strings.TrimPrefix(interpreterLine(path), "#!"))
		if len(words) > 1 && filepath.Base(words[0]) == "env" {
			words = words[1:]
		}
		if len(words) > 0 && pythonName.MatchString(filepath.Base(words[0])) {
			return look(words[0])
		}
	}
	for _, name := range []string{"python", "python3"} {
		if path := look(name); path != "" {
			return path
		}
	}
	return ""
}

func interpreterLine(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	text := make([]byte, 256)
	count, _ := file.Read(text)
	line, _, _ := strings.Cut(string(text[:count]), "\n")
	if !strings.HasPrefix(line, "#!") {
		return ""
	}
	return line
}

// siteFolders gives the folders of packages of a Python, first those of its virtual environment, and its version.
func siteFolders(python string) ([]string, string) {
	version := ""
	var folders []string
	add := func(prefix string) {
		for _, lib := range []string{"lib", "lib64"} {
			libraries, _ := os.ReadDir(filepath.Join(prefix, lib))
			for _, entry := range libraries {
				match := pythonFolder.FindStringSubmatch(entry.Name())
				if entry.Name() != "python3" && (match == nil || version != "" && match[1] != version) {
					continue
				}
				here := []string{
					filepath.Join(prefix, lib, entry.Name(), "site-packages"),
					filepath.Join(prefix, lib, entry.Name(), "dist-packages"),
				}
				folders = append(folders, here...)
			}
		}
	}
	prefix := filepath.Dir(filepath.Dir(python))
	settings, err := os.ReadFile(filepath.Join(prefix, "pyvenv.cfg"))
	real, linkErr := filepath.EvalSymlinks(python)
	if linkErr != nil {
		real = python
	}
	version = strings.TrimPrefix(strings.TrimPrefix(filepath.Base(real), "pypy"), "python")
	if !strings.Contains(version, ".") {
		version = versionOf(filepath.Dir(filepath.Dir(real)))
	}
	system := true
	if err == nil {
		system = regexp.MustCompile(`(?mi)^include-system-site-packages\s*=\s*true`).Match(settings)
		add(prefix)
	}
	if system {
		add(filepath.Join(os.Getenv("HOME"), ".local"))
		add(filepath.Dir(filepath.Dir(real)))
		if strings.HasPrefix(real, "/usr/bin/") {
			add("/usr/local") // Debian's Python looks there too
		}
	}
	return slices.Compact(folders), version
}

// versionOf looks which version's library an installation has; "" if it has several.
func versionOf(prefix string) string {
	found := ""
	entries, _ := os.ReadDir(filepath.Join(prefix, "lib"))
	for _, entry := range entries {
		if match := pythonFolder.FindStringSubmatch(entry.Name()); match != nil && match[1] != found {
			if found != "" {
				return ""
			}
			found = match[1]
		}
	}
	return found
}
