//! What a running daemon has given up.

use std::path::Path;

use overlay_tests::e2e::{CONFIG, Scene, good};

/// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW.
const KEPT: u64 = 1 << 10 | 1 << 12 | 1 << 13;

#[test]
fn no_thread_can_do_more_than_it_must() {
    let scene = Scene::up("hardening", 1);
    scene.registered("spoke-a");
    let pid = scene.daemons["spoke-a"].pid();
    let mut threads = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
        };
        for set in ["CapPrm:", "CapEff:"] {
            assert_eq!(value(set), KEPT, "{status}");
        }
        assert_eq!((value("CapInh:"), value("CapAmb:")), (0, 0));
        assert_eq!(value("NoNewPrivs:"), 1);
        threads += 1;
    }
    assert!(threads >= 3, "the shell and the packet threads: {threads}");

    // A file elsewhere is out of reach, even for root; one beside the others is not.
    let log = scene.log("spoke-a");
    println!("{}", log.lines().find(|line| line.contains("capabilities:")).unwrap());
    if !log.contains("files: restricted by Landlock") {
        return;
    }
    let node = scene.node("spoke-a");
    let (yaml, certificate) =
        (node.run(["cat", CONFIG]).unwrap(), node.run(["cat", "/etc/nhrpd/node.crt"]).unwrap());
    let write = |path: &str, text: &str| good("write", node.write_file(Path::new(path), text));
    write("/srv/other.crt", &certificate);
    write("/etc/nhrpd/other.crt", &certificate);
    write(CONFIG, &yaml.replace("node.crt", "/srv/other.crt"));
    let error = node.run(["overlayctl", "reload"]).unwrap_err().to_string();
    assert!(error.contains("cannot read /srv/other.crt"), "{error}");
    assert!(error.contains("need a restart"), "{error}");
    write(CONFIG, &yaml.replace("node.crt", "/etc/nhrpd/other.crt"));
    println!("{}", scene.run("spoke-a", "overlayctl reload").trim());
}
