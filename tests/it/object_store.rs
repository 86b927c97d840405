//! Workspaces and videos in an object store: a real S3 server, and one that loses, delays and refuses on purpose.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use lapo::dataset::{Access, Commit, Receipt, Store, at, commit, file_receipt, head};
use rand::{Rng, SeedableRng};

use crate::project::{PIPELINE, Project, Said, said};

/// What must never be told.
const SECRETS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIA-NOBODY-KNOWS"),
    ("AWS_SECRET_ACCESS_KEY", "secret-nobody-knows"),
    ("AWS_SESSION_TOKEN", "token-nobody-knows"),
];

/// The server, which ends with this process.
struct Server {
    _child: Child,
    port: u16,
    proxy: u16,
}

/// One for all tests; `None` where no Python with moto is named.
fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let start = || {
        let Ok(python) = std::env::var("LAPO_PYTHON") else {
            eprintln!("skipped: LAPO_PYTHON names no Python with moto");
            return None;
        };
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/bucket.py");
        let mut child = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
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
    fn access(&self, copies: &std::path::Path) -> Access {
        let endpoint = ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port));
        let options =
            SECRETS.map(|(name, value)| (name, value.to_owned())).into_iter().chain([endpoint]);
        Access::new(
            options.map(|(name, value)| (name.to_owned(), value)),
            copies.to_owned(),
            1 << 30,
        )
    }

    /// A command of the binary that reaches the server at `port`.
    fn command(&self, project: &Project, port: u16, args: &[&str]) -> Command {
        let mut command = project.command(args);
        command
            .envs(SECRETS)
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
            .env("LAPO_CACHE", project.path("copies"));
        command
    }

    fn lapo(&self, project: &Project, args: &[&str]) -> Said {
        said(self.command(project, self.port, args).spawn().unwrap())
    }

    /// Tells the proxy something.
    fn tell(&self, path: &str) -> u64 {
        let mut stream = TcpStream::connect(("127.0.0.1", self.proxy)).unwrap();
        write!(stream, "GET /-/{path} HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        told.lines().last().unwrap().parse().unwrap()
    }
}

/// A project whose videos and workspace are under `s3://lapo/NAME`.
fn in_bucket(server: &Server, name: &str, games: usize) -> (Project, Store) {
    let project = Project::new(games);
    let pipeline = PIPELINE.replace("workspace: ws", &format!("workspace: s3://lapo/{name}/ws"));
    let pipeline = pipeline.replace("videos/*", &format!("s3://lapo/{name}/videos/*.mp4"));
    fs::write(project.path("pipeline.yaml"), pipeline).unwrap();
    let store =
        Store::open_with(&format!("s3://lapo/{name}"), &server.access(&project.path("our copies")))
            .unwrap();
    upload(&project, &store);
    (project, store)
}

/// The project's videos, into the bucket.
fn upload(project: &Project, store: &Store) {
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

/// The files of every stage's newest version, in order.
fn results(store: &Store) -> Vec<(String, Vec<u8>)> {
    let named = |stage: &'static str, name: &'static str| {
        let manifest = head(store, stage).unwrap().unwrap();
        let files: Vec<String> = manifest
            .files(store)
            .unwrap()
            .into_iter()
            .map(|file| file.path)
            .filter(|path| path.ends_with(name))
            .collect();
        files
            .into_iter()
            .map(move |path| (format!("{stage}/{name}"), store.require(&path).unwrap().to_vec()))
    };
    let frames = named("frames", "shard.arrow").chain(named("model", "model.safetensors"));
    frames.chain(named("labels", "labels.parquet")).collect()
}

fn rows(said: Said) -> serde_json::Value {
    serde_json::from_str(&said.good().stdout).unwrap()
}

#[test]
fn a_pipeline_over_a_bucket_gives_what_it_gives_in_a_folder() {
    let Some(server) = server() else { return };
    let (project, store) = in_bucket(server, "whole", 6);
    let run = |more: &[&str]| server.lapo(&project, &[&["run", "pipeline.yaml"], more].concat());
    let first = run(&["--metrics-file", "lapo.prom", "--log-format", "json"]).good();
    assert!(first.stdout.contains("6 videos (6 new)"), "{first:#?}");
    let again = run(&[]).good();
    assert!(again.stdout.starts_with("0 tasks"), "{again:#?}");

    let local = Project::new(6);
    local.run(&[]).good();
    let there = Store::open_with("s3://lapo/whole/ws", store.access()).unwrap();
    let sql = "SELECT frame_index, latent_code, fdm_error FROM labels ORDER BY video, frame_index";
    let asked = ["query", sql, "--workspace", "s3://lapo/whole/ws", "--format", "json"];
    assert_eq!(rows(server.lapo(&project, &asked)), local.query(sql));

    // One more video, one that is broken, and one that changes.
    project.add(6..7);
    fs::write(project.path("videos/text.mp4"), "this is no video\n".repeat(40)).unwrap();
    upload(&project, &store);
    let more = run(&[]).good();
    assert!(
        more.stdout.contains("8 videos (2 new)") && more.stdout.contains("1 rejects"),
        "{more:#?}"
    );
    let gc = rows(server.lapo(
        &project,
        &["gc", "--workspace", "s3://lapo/whole/ws", "--older-than", "0s", "--format", "json"],
    ));
    assert_eq!(gc["garbage"], serde_json::json!([]), "nothing is left over");
    no_secret_in(&project, &there, &[first, again, more]);
}

/// No secret is in what the runs said, in a file they left, or in the bucket.
fn no_secret_in(project: &Project, store: &Store, runs: &[Said]) {
    let holds = |bytes: &[u8]| {
        SECRETS
            .iter()
            .find(|(_, secret)| bytes.windows(secret.len()).any(|at| at == secret.as_bytes()))
    };
    for said in runs {
        assert_eq!(holds(format!("{said:?}").as_bytes()), None, "{said:#?}");
    }
    let mut folders = vec![project.folder.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            match entry.is_dir() {
                true => folders.push(entry),
                false => assert_eq!(holds(&fs::read(&entry).unwrap()), None, "{}", entry.display()),
            }
        }
    }
    for path in store.list("").unwrap() {
        assert_eq!(holds(&store.require(&path).unwrap()), None, "{path}");
    }
}

#[test]
fn videos_listed_by_etag_or_within_archives_of_a_bucket_are_decoded_in_place() {
    let Some(server) = server() else { return };
    let (project, store) = in_bucket(server, "sources", 6);
    assert!(
        Command::new("tar")
            .args(["cf", "clips.tar", "videos"])
            .current_dir(project.folder.path())
            .status()
            .unwrap()
            .success()
    );
    store.create("clips.tar", &fs::read(project.path("clips.tar")).unwrap()).unwrap();
    let listed = store.files("videos").unwrap().into_iter().take(3);
    let rows: String = listed
        .map(|file| {
            format!("s3://lapo/sources/{},{},{:?}\n", file.path, file.bytes, file.etag.unwrap())
        })
        .collect();
    store
        .create("clips.csv", format!("uri,bytes,etag\n{}", rows.replace("\\\"", "\"\"")).as_bytes())
        .unwrap();
    let source = "videos: ['s3://lapo/sources/*.tar'], lists: ['s3://lapo/sources/clips.csv'], identity: etag";
    fs::write(project.path("pipeline.yaml"), PIPELINE.replace("videos: ['videos/*']", source))
        .unwrap();
    let said = server.lapo(&project, &["run", "pipeline.yaml"]).good();
    assert!(
        said.stdout.contains("9 videos (9 new)") && said.stdout.contains(", 0 rejects"),
        "{said:#?}"
    );
    assert!(server.lapo(&project, &["run", "pipeline.yaml"]).good().stdout.starts_with("0 tasks"));
    let sql = "SELECT video, count(*) AS n FROM frames GROUP BY video ORDER BY video";
    let counts = rows_of(
        &server.lapo(&project, &["query", sql, "--workspace", "ws", "--format", "json"]).good(),
    );
    let count = |name: &str| {
        counts
            .iter()
            .find(|row| row["video"] == *format!("s3://lapo/sources/{name}"))
            .map(|row| row["n"].clone())
    };
    assert_eq!(
        count("clips.tar/videos/maze_1_001.mp4"),
        count("videos/maze_1_001.mp4"),
        "{counts:?}"
    );
    assert_eq!(counts.len(), 9);
}

fn rows_of(said: &Said) -> Vec<serde_json::Value> {
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn what_is_wrong_with_an_address_is_said_with_its_cure_and_without_a_secret() {
    let Some(server) = server() else { return };
    let project = Project::new(1);
    for (workspace, expect) in [
        ("s3://no-such-bucket/ws", "the bucket must exist"),
        ("ftp://host/ws", "`ftp` is no scheme"),
        ("s3://me:secret-nobody-knows@lapo/ws", "it holds a password"),
    ] {
        let said = server.lapo(&project, &["run", "pipeline.yaml", "--workspace", workspace]);
        assert!(
            said.code == 1 && said.stderr.contains(expect) && !said.stderr.contains("nobody-knows"),
            "{said:#?}"
        );
    }
    let doctor = server.lapo(&project, &["doctor", "--workspace", "s3://lapo/doctor"]);
    assert!(
        doctor.stdout.contains("s3://lapo/doctor can be written, and creates each file once"),
        "{doctor:#?}"
    );
}

fn receipt(key: &str, attempt: usize) -> Receipt {
    let receipt = serde_json::json!({
        "format": lapo::dataset::FORMAT, "key": key, "stage": "decode", "attempt": format!("attempt{attempt}"), "fields": {}, "files": [],
        "inputs": [], "videos": [], "rejects": [], "stats": {},
        "made": { "lapo": "0", "commit": "", "libav": null, "device": "cpu", "host": "here", "finished_unix_secs": 0 },
    });
    serde_json::from_value(receipt).unwrap()
}

#[test]
fn of_32_committers_at_once_one_wins_each_version_and_nothing_is_lost() {
    let Some(server) = server() else { return };
    let copies = tempfile::tempdir().unwrap();
    let at_once = |i: usize| {
        let store = Store::open_with("s3://lapo/commits", &server.access(copies.path())).unwrap();
        let own = format!("key{i}");
        file_receipt(&store, "frames", &receipt(&own, i)).unwrap();
        let filed = file_receipt(&store, "frames", &receipt("contested", i)).unwrap();
        let settings = serde_json::Map::new();
        let (stage, kind, run, pipeline, why) = ("frames", "decode", "00000001", "p", "a test");
        let by = Commit {
            stage,
            kind,
            run,
            pipeline,
            take_over: false,
            why,
            settings: &settings,
            since: 99,
            now_unix_ms: 0,
            file_bytes: 1 << 20,
        };
        commit(&store, &by, std::slice::from_ref(&own), &Default::default()).unwrap();
        filed == lapo::dataset::Filed::Won
    };
    let won: Vec<bool> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32).map(|i| scope.spawn(move || at_once(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(
        won.iter().filter(|won| **won).count(),
        1,
        "one attempt at the contested task counts"
    );
    let store = Store::open_with("s3://lapo/commits", &server.access(copies.path())).unwrap();
    let newest = head(&store, "frames").unwrap().unwrap();
    assert_eq!(newest.version, 32);
    let of = |version: u64| {
        at(&store, "frames", version).unwrap().unwrap().entries(&store).unwrap().remove(0).0
    };
    let keys: std::collections::BTreeSet<String> = (1..=32).map(of).collect();
    assert_eq!(keys.len(), 32, "each of them made a version");
    assert_eq!(store.list("frames/manifests").unwrap().len(), 32);
}

/// How many schedules of faults are tried: 8, or as many as the environment says.
fn schedules() -> u64 {
    std::env::var("LAPO_FAULT_SCHEDULES").map_or(8, |count| count.parse().unwrap())
}

#[test]
fn whatever_the_store_does_the_dataset_is_the_same_bytes() {
    let Some(server) = server() else { return };
    let (project, store) = in_bucket(server, "faults", 5);
    let workspace =
        |name: &str| Store::open_with(&format!("s3://lapo/faults/{name}"), store.access()).unwrap();
    server.lapo(&project, &["run", "pipeline.yaml", "--workspace", "s3://lapo/faults/calm"]).good();
    let expect = results(&workspace("calm"));
    let mut died = 0;
    for seed in 0..schedules() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let (name, rate) = (format!("s3://lapo/faults/{seed}"), rng.random_range(20..200));
        server.tell(&format!("faults/{seed}/{rate}"));
        // Every second run dies after a random number of requests, and is run again.
        let run = || {
            server
                .command(&project, server.proxy, &["run", "pipeline.yaml", "--workspace", &name])
                .spawn()
                .unwrap()
        };
        let (mut child, last) = (run(), rng.random_range(1..160));
        while seed % 2 == 0 && child.try_wait().unwrap().is_none() {
            if server.tell("count") >= last {
                child.kill().unwrap();
                child.wait().unwrap();
                died += 1;
                child = run();
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        said(child).good();
        assert!(
            results(&workspace(&seed.to_string())) == expect,
            "schedule {seed}: other bytes than without faults"
        );
        store.delete_all(&seed.to_string()).unwrap();
    }
    println!("{} schedules, {died} of them with a run that died", schedules());
}

/// Puts objects whose keys this program cannot make, and more than a page of others.
const ODD_KEYS: &str = "
import sys, boto3
url, video = sys.argv[1:]
s3 = boto3.client('s3', endpoint_url=url, aws_access_key_id='x', aws_secret_access_key='y', region_name='us-east-1')
s3.create_bucket(Bucket='odd')
data = open(video, 'rb').read()
for key in ['v/good.mp4', 'v//odd.mp4', 'v/./odd.mp4', 'v/o\\tdd.mp4', 'v/.hidden.mp4', 'v/clip [abc].mp4', 'v/zz.mp4', 'w//odd.mp4']:
    s3.put_object(Bucket='odd', Key=key, Body=data)
for key in ['v/marker.mp4/', 'v/empty.mp4'] + ['v/n%04d.txt' % number for number in range(1100)]:
    s3.put_object(Bucket='odd', Key=key, Body=b'')
";

#[test]
fn an_odd_key_is_a_row_and_costs_no_other_object() {
    let Some(server) = server() else { return };
    let project = Project::new(1);
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let put = Command::new(std::env::var("LAPO_PYTHON").unwrap())
        .args([
            "-c",
            ODD_KEYS,
            endpoint.as_str(),
            project.path("videos/maze_1_000.mp4").to_str().unwrap(),
        ])
        .output()
        .unwrap();
    assert!(put.status.success(), "{put:?}");
    let run = |pattern: &str| {
        let yaml = format!(
            "name: odd\nworkspace: ws\nstages:\n  frames: {{ decode: {{ videos: ['{pattern}'], size: 16, max_dropped: 1 }} }}\n"
        );
        fs::write(project.path("pipeline.yaml"), yaml).unwrap();
        server.lapo(&project, &["run", "pipeline.yaml"])
    };
    let found = |table: &str, column: &str| {
        let sql = format!("SELECT video, {column} AS it FROM {table} ORDER BY video");
        let rows = project.query(&sql);
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| format!("{} {}", row["video"].as_str().unwrap(), row["it"]))
            .collect::<Vec<_>>()
    };
    run("s3://odd/v/*.mp4").good();
    let rejects = [
        "s3://odd/v/./odd.mp4 \"odd_key\"",
        "s3://odd/v//odd.mp4 \"odd_key\"",
        "s3://odd/v/empty.mp4 \"empty_file\"",
        "s3://odd/v/o\tdd.mp4 \"odd_key\"",
    ];
    assert_eq!(found("rejects", "class"), rejects);
    let good: Vec<String> =
        found("videos", "frames > 0").into_iter().filter(|row| row.ends_with("true")).collect();
    assert_eq!(
        good,
        ["s3://odd/v/clip [abc].mp4 true", "s3://odd/v/good.mp4 true", "s3://odd/v/zz.mp4 true"]
    );
    for (pattern, count) in
        [("s3://odd/v/good.mp4", 1), ("s3://odd/v/clip [abc].mp4", 1), ("s3://odd/**/[gz]*.mp4", 2)]
    {
        run(pattern).good();
        assert_eq!(found("videos", "frames").len(), count, "{pattern}");
    }
    let missing = run("s3://nobody-has-this/v/*.mp4");
    assert!(
        missing.code == 1
            && missing.stderr.contains("there is no such bucket")
            && !missing.stderr.contains("<Error>"),
        "{missing:#?}"
    );
}
