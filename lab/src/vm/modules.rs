//! Which modules the kernel needs before it can see the host's files, and in which order.

use std::collections::BTreeMap;

/// `depmod`'s lists of one kernel.
#[derive(Debug)]
pub(super) struct Modules<'a> {
    /// Path and dependencies by name.
    loadable: BTreeMap<String, (&'a str, Vec<&'a str>)>,
    builtin: Vec<String>,
}

impl<'a> Modules<'a> {
    /// From `modules.dep` (`path: dependency dependency …`) and `modules.builtin` (a path a line).
    pub(super) fn parse(dependencies: &'a str, builtin: &str) -> Self {
        let loadable = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(path, rest)| (name(path), (path, rest.split_whitespace().collect())))
            .collect();
        Self { loadable, builtin: builtin.lines().map(name).collect() }
    }

    /// Paths to load, each after what it depends on.
    ///
    /// # Errors
    /// The name of a module that this kernel does not have.
    pub(super) fn order<'n>(&self, wanted: &[&'n str]) -> Result<Vec<&'a str>, &'n str> {
        let mut order = Vec::new();
        for wanted in wanted {
            match self.loadable.get(&name(wanted)) {
                Some((path, dependencies)) => {
                    // modules.dep names all of them, direct or not; the last is to be loaded first.
                    for path in dependencies.iter().rev().chain([path]) {
                        if !order.contains(path) {
                            order.push(*path);
                        }
                    }
                }
                None if self.builtin.contains(&name(wanted)) => {}
                None => return Err(wanted),
            }
        }
        Ok(order)
    }
}

/// `kernel/fs/9p/nine-p.ko` is the module `nine_p`.
fn name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/virtio.ko:\n\
                       kernel/virtio_ring.ko: kernel/virtio.ko\n\
                       kernel/net/9pnet.ko:\n\
                       kernel/net/9pnet_virtio.ko: kernel/net/9pnet.ko kernel/virtio_ring.ko kernel/virtio.ko\n\
                       kernel/fs/nine-p.ko: kernel/net/9pnet.ko\n";

    #[test]
    fn each_module_comes_once_and_after_what_it_needs() {
        let modules = Modules::parse(DEP, "kernel/ext4.ko\n");
        let order = modules.order(&["nine_p", "ext4", "9pnet_virtio"]).unwrap();
        assert_eq!(
            order,
            [
                "kernel/net/9pnet.ko",
                "kernel/fs/nine-p.ko",
                "kernel/virtio.ko",
                "kernel/virtio_ring.ko",
                "kernel/net/9pnet_virtio.ko"
            ]
        );
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        assert_eq!(Modules::parse(DEP, "").order(&["nine_p", "xfs"]), Err("xfs"));
    }
}
