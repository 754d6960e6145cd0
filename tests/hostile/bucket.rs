//! Somebody who can write to a bucket and wants more of the machine that mounts it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use crate::support::moto::Moto;
use crate::support::place::Place;
use crate::support::seaweed::BUCKET;

/// What programs that keep POSIX attributes in a bucket write there: s3fs, rclone, AWS `DataSync`
/// and Storage Gateway.
const METADATA: &str = "x-amz-meta-mode: 0104755\r\nx-amz-meta-uid: 64007\r\n\
    x-amz-meta-gid: 64007\r\nx-amz-meta-file-permissions: 04755\r\nx-amz-meta-file-owner: 64007\r\n\
    x-amz-meta-file-group: 64007\r\nx-amz-meta-rdev: 259\r\n";

#[test]
fn who_wants_a_set_user_id_program_a_device_or_another_owner_gets_a_plain_file() {
    let server = Moto::start();
    let device = METADATA.replace("0104755", "020666");
    let link = METADATA.replace("0104755", "0120777");
    for (key, metadata) in [("program", METADATA), ("device", &device), ("link", &link)] {
        server.put(key, metadata, "/etc/shadow");
    }
    let place = Place::new();
    let home = &place.home;
    home.run_with(b"any", ["secret", "set", "KEY"]).expect_ok();
    let endpoint = server.endpoint();
    home.ok([
        "s3",
        "connect",
        "raw",
        "--bucket",
        BUCKET,
        "--region",
        "us-east-1",
        "--endpoint",
        &endpoint,
        "--key-id",
        "K",
        "--secret-ref",
        "project/KEY",
        "--no-test",
    ]);
    place.mount();
    let bucket = place.dir.join("s3/raw");
    let me = rustix::process::geteuid().as_raw();
    for name in ["program", "device", "link"] {
        let found = fs::symlink_metadata(bucket.join(name)).unwrap();
        assert!(found.is_file(), "{name} is {found:?}");
        assert_eq!((found.mode() & 0o7777, found.uid(), found.rdev()), (0o644, me, 0), "{name}");
        assert_eq!(fs::read_to_string(bucket.join(name)).unwrap(), "/etc/shadow");
    }
    // The key that all of it was read with is kept out of swap.
    let process = place.server().as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    let kib: u64 = locked.trim().trim_end_matches(" kB").parse().unwrap();
    assert!((4..=1024).contains(&kib), "{locked}");
}
