//! Somebody wants a reader to panic, to take all memory, or to read a file in two ways.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atelier::secret::EnvironmentFile;

use crate::secrets::home::{Home, done, refused};
use crate::secrets::writes::Secrets;

/// How much more than nothing a hostile input may cost, in KiB.
const MOST: u64 = 64 << 10;

/// Files that `sops` takes or stumbles over, each with what is wrong in it; `GOOD` stands for a
/// good file.
fn zoo(good: &str) -> Vec<String> {
    let (data, metadata) = good.split_at(good.find("sops_").unwrap());
    let value = data.lines().next().unwrap().split_once('=').unwrap().1;
    let enc = metadata.lines().find(|line| line.contains("__map_enc")).unwrap();
    let (_, armored) = enc.split_once('=').unwrap();
    let recipient = metadata.lines().find(|line| line.contains("__map_recipient")).unwrap();
    let (_, recipient) = recipient.split_once('=').unwrap();
    let with = |line: &str| format!("{data}{line}\n{metadata}");
    let plus = |line: &str| format!("{good}{line}\n");
    let mut zoo = vec![
        String::new(),
        "\n".into(),
        "=\n".into(),
        "#\n".into(),
        data.to_owned(),
        metadata.to_owned() + data,
        good.replace('\n', "\r\n"),
        format!("\u{feff}{good}"),
        format!("{good}\0"),
        with("no pair"),
        with("=value"),
        with(" A=b"),
        with("export A=b"),
        with("B=clear"),
        with("#clear comment"),
        with("B=ENC[]"),
        with("B=ENC[AES256_GCM,data:,iv:,tag:,type:str]"),
        with(&format!("B={}", value.replace("type:str", "type:int"))),
        with(&format!("B={}", value.replace("type:str", "type:bytes"))),
        with(&format!("B={}", value.replace("AES256_GCM", "NONE"))),
        with(&format!("B={value}{value}")),
        with(&format!("B= {value}")),
        with(&format!("A={value}")),
        with("sops_version=3.11.0"),
        plus("sops_mac=x"),
        plus("sops_kms__list_0__map_arn=arn"),
        plus("sops_pgp__list_0__map_fp=x"),
        plus("sops_shamir_threshold=2"),
        plus("sops_encrypted_regex=^NEVER$"),
        plus("sops_unencrypted_regex=.*"),
        plus("sops_mac_only_encrypted=true"),
        plus("sops_age__list_0__map_enc__list_0=x"),
        plus("sops_age"),
        plus("sops_=x"),
        good.replace("sops_lastmodified=2", "sops_lastmodified=x2"),
        good.replace("sops_version=3.11.0", "sops_version=-1"),
        good.replace(recipient, &recipient.to_uppercase()),
        good.replace(recipient, "age1"),
        good.replace(armored, "x"),
        good.replace(armored, &armored.repeat(2)),
        good.replace("sops_unencrypted_suffix=_unencrypted", "sops_unencrypted_suffix="),
        good.replace("sops_unencrypted_suffix=_unencrypted", "sops_encrypted_suffix=_secret"),
    ];
    for index in ["1", "64", "99", "00", "-1", "+1", "4294967296", "18446744073709551616", "x", ""]
    {
        zoo.push(good.replace("__list_0__", &format!("__list_{index}__")));
        zoo.push(plus(&format!("sops_age__list_{index}__map_enc={armored}")));
    }
    zoo.push(with(&format!("{}={value}", "K".repeat(257))));
    zoo.push(with(&"A\n".repeat(10_001)));
    zoo
}

/// Nothing of the zoo is read, written on a mount, imported or run with, and nothing panics.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_have_a_malformed_file_accepted() {
    let secrets = Secrets::mount().await;
    let good = String::from_utf8(secrets.sealed("1", &[])).unwrap();
    assert!(EnvironmentFile::parse("x", good.as_bytes()).is_ok());
    for bad in zoo(&good) {
        let shown = &bad[..bad.len().min(300)];
        assert!(EnvironmentFile::parse("x", bad.as_bytes()).is_err(), "{shown}");
        let _ = fs::write(secrets.file("new.env"), &bad);
        assert!(!secrets.file("new.env").exists(), "{shown}");
    }
    fs::write(secrets.file("new.env"), &good).unwrap();
    assert!(secrets.file("new.env").exists());
}

/// What stands in the catalogue however it came there stops a reader with one line.
#[tokio::test]
async fn to_have_a_reader_panic() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let good = String::from_utf8(home.body("project").await).unwrap();
    for bad in zoo(&good).into_iter().filter(|bad| !bad.is_empty()).step_by(7) {
        home.replace_body("project", bad.into_bytes()).await;
        let output = home.run(&["run", "--", "true"]);
        refused(&output, 1, "environment file project");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    }
}

/// A daemon of its own, so that its memory can be measured.
struct Daemon {
    child: Child,
    dir: std::path::PathBuf,
}

impl Daemon {
    fn start(home: &Home) -> Self {
        let dir = home.dir().join("daemon");
        fs::create_dir(&dir).unwrap();
        let mut command = home.command("ada", &["mount", "--foreground", dir.to_str().unwrap()]);
        command.env_remove("RUST_LOG").stderr(Stdio::null());
        let daemon = Self { child: command.spawn().unwrap(), dir };
        let since = Instant::now();
        while !daemon.dir.join("secrets").exists() {
            assert!(since.elapsed() < Duration::from_mins(1), "it isn't mounted");
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    /// The most memory that it had, in KiB: `VmHWM` of `proc_pid_status(5)`.
    fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// A line of 1 GiB, 100,000 recipients and many files at once cost the daemon little.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn to_use_up_the_memory_of_the_daemon() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let daemon = Daemon::start(&home);
    let good = fs::read(daemon.dir.join("secrets/project.env")).unwrap();
    let idle = daemon.peak();

    let mut long = truncating(&daemon, "project");
    long.write_all(b"A=ENC[AES256_GCM,data:").unwrap();
    let piece = vec![b'A'; 1 << 20];
    let refused = (0..1024).filter(|_| long.write_all(&piece).is_err()).count();
    assert!(refused >= 1023, "{refused} of 1024 MiB were refused");
    long.seek(SeekFrom::Start(1 << 30)).unwrap();
    assert!(long.write_all(b"x").is_err());
    drop(long);

    let mut recipients = String::new();
    for index in 0..100_000 {
        let _ = writeln!(recipients, "sops_age__list_{index}__map_recipient=age1x");
    }
    assert!(truncating(&daemon, "project").write_all(recipients.as_bytes()).is_err());

    let many: Vec<_> = (0..200)
        .filter_map(|index| {
            let mut file = create(&daemon, &format!("new{index}")).ok()?;
            let _ = file.write_all(&b"#\n".repeat(500_000));
            Some(file)
        })
        .collect();
    assert!(many.len() < 200, "all of them are open");
    drop(many);
    let grown = daemon.peak() - idle;
    assert!(grown < MOST, "it grew by {grown} KiB");
    assert_eq!(fs::read(daemon.dir.join("secrets/project.env")).unwrap(), good);
}

fn truncating(daemon: &Daemon, name: &str) -> File {
    let path = daemon.dir.join(format!("secrets/{name}.env"));
    OpenOptions::new().write(true).truncate(true).open(path).unwrap()
}

fn create(daemon: &Daemon, name: &str) -> std::io::Result<File> {
    File::create(daemon.dir.join(format!("secrets/{name}.env")))
}

/// A file of 1 GiB, one with 100,000 recipients and one with a line too many cost a client little.
#[tokio::test]
async fn to_use_up_the_memory_of_a_client() {
    let home = Home::new().await;
    done(&home.set("A", "project", b"1"));
    let idle = peak_of(&home, &["whoami"]);
    let sparse = home.dir().join("sparse.env");
    File::create(&sparse).unwrap().set_len(1 << 30).unwrap();
    let recipients = home.dir().join("recipients.env");
    let mut text = String::from("A=x\nsops_mac=x\n");
    for index in 0..100_000 {
        let _ = writeln!(text, "sops_age__list_{index}__map_recipient=age1x");
    }
    fs::write(&recipients, &text).unwrap();
    let commands = home.dir().join("lines.env");
    fs::write(&commands, "A=1\n".repeat(200_000)).unwrap();
    for file in [sparse, recipients, commands] {
        let import = ["secret", "import", "--env", "new", file.to_str().unwrap()];
        assert!(!home.run(&import).status.success());
        let grown = peak_of(&home, &import).saturating_sub(idle);
        assert!(grown < MOST, "it took {grown} KiB more for {}", file.display());
    }
}

/// The most memory that a command has, in KiB.
fn peak_of(home: &Home, args: &[&str]) -> u64 {
    let model = home.command("ada", args);
    let script = "import resource, subprocess, sys\n\
        subprocess.run(sys.argv[1:], capture_output=True)\n\
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(model.get_program()).args(args).env_clear();
    python.envs(model.get_envs().filter_map(|(key, value)| Some((key, value?))));
    done(&python.output().unwrap()).trim().parse().unwrap()
}
