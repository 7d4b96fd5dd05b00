//! The program as a child process.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use crate::wait_for;

/// How much of a log is shown when a test fails.
const SHOWN_BYTES: usize = 6000;

/// A child that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    arguments: String,
    out: PathBuf,
    err: PathBuf,
    peak_bytes: u64,
}

/// A child that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote to stdout.
    pub out: String,
    /// What it wrote to stderr.
    pub err: String,
    /// The most memory that it held at once, as far as the system tells.
    pub peak_bytes: u64,
    /// How long it ran since it was started or last waited for.
    pub took: Duration,
    arguments: String,
}

impl Running {
    /// Starts a command whose output goes to files in `logs`, numbered.
    pub fn start(mut command: Command, logs: &Path) -> Self {
        fs::create_dir_all(logs).unwrap();
        let number = fs::read_dir(logs).unwrap().count() / 2;
        let (out, err) = (logs.join(format!("{number:02}.out")), logs.join(format!("{number:02}.err")));
        command.stdout(fs::File::create_new(&out).unwrap()).stderr(fs::File::create_new(&err).unwrap());
        let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect();
        let child = command.spawn().unwrap_or_else(|error| panic!("{:?} can't be run: {error}", command.get_program()));
        Self { child, arguments: arguments.join(" "), out, err, peak_bytes: 0 }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap()).into_owned()
    }

    /// What it has written to stdout so far.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.out).unwrap()).into_owned()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end. Kills it and panics if that takes longer than `limit`.
    pub fn wait(mut self, limit: Duration) -> Ended {
        let began = Instant::now();
        let status = wait_for(&format!("end of `penstock {}`", self.arguments), limit, || {
            self.peak_bytes = self.peak_bytes.max(peak_bytes(self.pid()));
            self.child.try_wait().unwrap()
        });
        self.ended(status, began.elapsed())
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(mut self) -> Ended {
        self.child.kill().unwrap();
        let status = self.child.wait().unwrap();
        self.ended(status, Duration::ZERO)
    }

    /// Asks it to stop, as ECS, systemd and `kill` do.
    pub fn terminate(&self) {
        let status = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().unwrap();
        assert!(status.success(), "SIGTERM couldn't be sent to {}", self.pid());
    }

    fn ended(&self, status: ExitStatus, took: Duration) -> Ended {
        let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        Ended {
            code: status.code(),
            signal: status.signal(),
            out: text(&self.out),
            err: text(&self.err),
            peak_bytes: self.peak_bytes,
            took,
            arguments: self.arguments.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill, and nothing wrong.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Ended {
    /// Checks the exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        let (arguments, out, err) = (&self.arguments, tail(&self.out), tail(&self.err));
        assert_eq!(self.code, Some(code), "exit code of `penstock {arguments}`; stdout:\n{out}\nstderr:\n{err}");
        self
    }
}

/// The end of a log.
pub fn tail(text: &str) -> &str {
    let start = (text.len().saturating_sub(SHOWN_BYTES)..).find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    &text[start..]
}

/// The most memory that a process has held at once; 0 where the system doesn't tell.
pub fn peak_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}
