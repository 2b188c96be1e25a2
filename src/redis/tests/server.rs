//! A real `redis-server` on a socket in a folder of its own. Also taken by the tests of whole gateways, so it needs nothing of the crate.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longer than it takes on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, which ends when dropped.
pub(crate) struct RedisServer {
    folder: TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    /// With further arguments. `None` where the program is not installed, which fails the test where `CI` is set.
    pub(crate) fn start(arguments: &[&str]) -> Option<Self> {
        let is_there = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_ok();
        if !is_there {
            assert!(std::env::var_os("CI").is_none(), "`redis-server` is missing");
            let _ = writeln!(std::io::stderr(), "SKIPPED: `redis-server` is missing");
            return None;
        }
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut server = Self { folder: tempfile::tempdir().unwrap(), arguments, child: None };
        server.run();
        Some(server)
    }

    /// Starts it, again after [`Self::kill`] with what was saved last.
    pub(crate) fn run(&mut self) {
        let folder = self.folder.path().to_str().unwrap();
        // Without a port but for one of the arguments; written to the disk by `SAVE` alone.
        let fixed = ["--port", "0", "--unixsocket", &format!("{folder}/r.sock"), "--dir", folder, "--save", ""];
        let mut command = Command::new("redis-server");
        command.args(fixed).args(["--appendonly", "no", "--daemonize", "no"]).args(&self.arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let start = Instant::now();
        while self.try_command(&["PING"]).is_none() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended");
            assert!(start.elapsed() < PATIENCE, "it does not answer");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.child = Some(child);
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
            let _ = std::fs::remove_file(self.socket());
        }
    }

    /// Has it stand still, or go on: it takes connections, and answers nothing.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("r.sock")
    }

    /// What it says to a command, as the protocol has it.
    #[track_caller]
    pub(crate) fn command(&self, words: &[&str]) -> String {
        self.try_command(words).expect("an answer")
    }

    fn try_command(&self, words: &[&str]) -> Option<String> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        let mut text = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| text.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        stream.write_all(text.as_bytes()).ok()?;
        let mut answer = vec![0; 64 * 1024];
        let length = stream.read(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        (!answer.is_empty() && !answer.starts_with("-LOADING")).then_some(answer)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
