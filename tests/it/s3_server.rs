//! Starts the S3 server of `s3_server.py`, with a fault-injecting proxy in front of it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use lapo::dataset::{Access, Store};

use crate::project::{CommandOutput, PIPELINE, Project, wait};

/// Credentials. No output and no file may contain them.
pub const SECRETS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIA-NOBODY-KNOWS"),
    ("AWS_SECRET_ACCESS_KEY", "secret-nobody-knows"),
    ("AWS_SESSION_TOKEN", "token-nobody-knows"),
];

/// The server and its proxy. They end with the test process, because it holds their stdin.
pub struct Server {
    _child: Child,
    pub port: u16,
    pub proxy: u16,
}

/// Returns the server shared by all tests, or `None` if `LAPO_PYTHON` names no Python.
pub fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let start = || {
        let Ok(python) = std::env::var("LAPO_PYTHON") else {
            eprintln!("skipped: LAPO_PYTHON names no Python with moto");
            return None;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/s3_server.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // moto may print other lines first.
        let ports = lines
            .map(|line| line.strip_prefix("ports ").map(str::to_owned))
            .find_map(|ports| ports)
            .expect("moto starts");
        let ports: Vec<u16> = ports.split_whitespace().map(|port| port.parse().unwrap()).collect();
        Some(Server { _child: child, port: ports[0], proxy: ports[1] })
    };
    SERVER.get_or_init(start).as_ref()
}

impl Server {
    /// Returns access to the server, with `copies` as the folder for copied files.
    pub fn access(&self, copies: &std::path::Path) -> Access {
        let endpoint = ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port));
        let options =
            SECRETS.map(|(name, value)| (name, value.to_owned())).into_iter().chain([endpoint]);
        Access::new(
            options.map(|(name, value)| (name.to_owned(), value)),
            copies.to_owned(),
            1 << 30,
        )
    }

    /// Returns a command of the binary for the server at `port`.
    pub fn command(&self, project: &Project, port: u16, args: &[&str]) -> Command {
        let mut command = project.command(args);
        command
            .envs(SECRETS)
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
            .env("LAPO_CACHE", project.path("copies"));
        command
    }

    /// Runs the binary without faults and waits for it.
    pub fn lapo(&self, project: &Project, args: &[&str]) -> CommandOutput {
        wait(self.command(project, self.port, args).spawn().unwrap())
    }

    /// Sends a control request to the proxy (see `s3_server.py`). Returns the number of requests.
    pub fn control(&self, path: &str) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.proxy)).unwrap();
        write!(stream, "GET /-/{path} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply.lines().last().unwrap().parse().unwrap()
    }
}

/// Creates a project with its videos and workspace under `s3://lapo/NAME`.
pub fn project_in_bucket(server: &Server, name: &str, games: usize) -> (Project, Store) {
    let project = Project::new(games);
    let pipeline = PIPELINE.replace("workspace: ws", &format!("workspace: s3://lapo/{name}/ws"));
    let pipeline = pipeline.replace("videos/*", &format!("s3://lapo/{name}/videos/*.mp4"));
    fs::write(project.path("pipeline.yaml"), pipeline).unwrap();
    let store =
        Store::open_with(&format!("s3://lapo/{name}"), &server.access(&project.path("our copies")))
            .unwrap();
    upload_videos(&project, &store);
    (project, store)
}

/// Uploads the project's videos into the bucket.
pub fn upload_videos(project: &Project, store: &Store) {
    for video in fs::read_dir(project.path("videos")).unwrap() {
        let video = video.unwrap();
        store
            .create(
                &format!("videos/{}", video.file_name().to_str().unwrap()),
                &fs::read(video.path()).unwrap(),
            )
            .unwrap();
    }
}
