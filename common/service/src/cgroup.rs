//! The limits of the container or cgroup of this process. Sources: Linux, cgroup-v2.rst and
//! cgroup-v1/memory.rst.

use std::fs;
use std::path::{Path, PathBuf};

/// Root of the control groups. A container sees its own group there.
const ROOT: &str = "/sys/fs/cgroup";
/// Version 1 has a huge number instead of no limit.
const MEMORY_MAX: u64 = 1 << 60;

/// The memory limit in bytes. `None` without a limit.
pub fn memory_max() -> Option<u64> {
    let limits = [("memory.max", ""), ("memory.limit_in_bytes", "memory")];
    smallest(Path::new(ROOT), &own_groups(), &limits).filter(|limit| *limit < MEMORY_MAX)
}

/// The maximum number of threads. `None` without a limit.
pub fn threads_max() -> Option<u64> {
    smallest(Path::new(ROOT), &own_groups(), &[("pids.max", ""), ("pids.max", "pids")])
}

/// The lines of `/proc/self/cgroup`: number, controllers, path of the group.
fn own_groups() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

/// The smallest limit of this process' groups and those around them. `limits` are file names, each
/// with its controller in version 1, or empty for version 2.
fn smallest(root: &Path, own_groups: &str, limits: &[(&str, &str)]) -> Option<u64> {
    let mut found = Vec::new();
    for (file, controller) in limits {
        for group in groups(root, own_groups, controller) {
            // Without a limit the file contains the word "max".
            let limit = fs::read_to_string(group.join(file)).unwrap_or_default();
            found.extend(limit.trim().parse::<u64>().ok());
        }
    }
    found.into_iter().min()
}

/// The folders of the group with this controller and of those around it.
fn groups(root: &Path, own_groups: &str, controller: &str) -> Vec<PathBuf> {
    let path_of = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let is_same = parts.next()?.split(',').any(|it| it == controller);
        if is_same {
            parts.next().map(|path| path.trim_start_matches('/').to_owned())
        } else {
            None
        }
    };
    let own = own_groups.lines().find_map(path_of).unwrap_or_default();
    let top = root.join(controller);
    top.join(own).ancestors().take_while(|it| it.starts_with(&top)).map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_limit_of_all_groups_counts() {
        let root = std::env::temp_dir().join(format!("cgroup-test-{}", std::process::id()));
        for (file, limit) in [
            ("a/b/memory.max", "max\n"),
            ("a/memory.max", "33554432\n"),
            ("memory.max", "67108864\n"),
            ("memory/docker/memory.limit_in_bytes", "16777216\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ] {
            fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            fs::write(root.join(file), limit).unwrap();
        }
        let limit = |groups: &str, file, controller| smallest(&root, groups, &[(file, controller)]);
        assert_eq!(limit("0::/a/b\n", "memory.max", ""), Some(32 << 20));
        assert_eq!(limit("0::/\n", "memory.max", ""), Some(64 << 20));
        let version_1 = "7:cpu,cpuacct:/x\n5:memory:/docker\n";
        assert_eq!(limit(version_1, "memory.limit_in_bytes", "memory"), Some(16 << 20));
        // A container does not see the folder of its own path, only its group as the root.
        let unseen = "5:memory:/docker/0123\n";
        assert_eq!(limit(unseen, "memory.limit_in_bytes", "memory"), Some(16 << 20));
        assert_eq!(limit(version_1, "pids.max", "pids"), None);
        fs::remove_dir_all(&root).unwrap();
    }
}
