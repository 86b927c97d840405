//! `lapo doctor`: what this machine offers.

use super::args::{Doctor, Games};
use super::{Error, print};
use crate::build_info::build_info;
use crate::dataset::{Access, Store};
use crate::envs::{Game, Levels, Mode, Package, Procgen, ProcgenConfig};
use crate::error::Result;
use crate::models::Device;

/// Codecs that most of the world's videos use.
#[cfg(feature = "video")]
const CODECS: [&str; 8] = ["h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg"];

/// Prints a line per check; fails where something that is needed is missing.
pub fn run(args: &Doctor, access: &Access) -> Result<()> {
    let mut checks = vec![video(), decoders(), device(), games(&args.games), memory(), cores()];
    checks.extend(args.workspace.as_deref().map(|workspace| storage(workspace, access)));
    let line = |(name, state): &(&str, Result<String, String>)| match state {
        Ok(good) => format!("good  {name}: {good}\n"),
        Err(bad) => format!("BAD   {name}: {bad}\n"),
    };
    print(&format!(
        "lapo {}\n{}",
        build_info().short(),
        checks.iter().map(line).collect::<String>()
    ))?;
    match checks.iter().filter(|(_, state)| state.is_err()).count() {
        0 => Ok(()),
        bad => Err(Error::Doctor(bad))?,
    }
}

type Check = (&'static str, Result<String, String>);

#[cfg(feature = "video")]
fn video() -> Check {
    let (version, missing) =
        (crate::video::libav_version(), crate::video::missing_decoders(&CODECS));
    let found: Vec<&str> = CODECS.into_iter().filter(|codec| !missing.contains(codec)).collect();
    let lacks =
        if missing.is_empty() { String::new() } else { format!("; lacks {}", missing.join(", ")) };
    let writes = if crate::video::writes_h264() {
        "writes H.264"
    } else {
        "writes no videos: it has no libx264"
    };
    ("video", Ok(format!("libav {version} decodes {} and more{lacks}; {writes}", found.join(", "))))
}

#[cfg(not(feature = "video"))]
fn video() -> Check {
    ("video", Ok("this build decodes no videos; it trains and labels shards that are there (libav left out)".into()))
}

/// What a file that takes a decoder over could reach; no fault, since many kernels have no such lock.
#[cfg(feature = "video")]
fn decoders() -> Check {
    let super::sandbox::Sandbox { files, network } = super::sandbox::tried();
    let held = match (files, network) {
        (true, true) => "see the bytes of their video: no other file, no network, no secrets",
        (true, false) => {
            "see no other file and no secrets; this kernel does not close the network to them (seccomp)"
        }
        (false, true) => {
            "see no network and no secrets; this kernel does not close other files to them (Landlock)"
        }
        (false, false) => {
            "see no secrets; this kernel closes neither files (Landlock) nor the network (seccomp) to them"
        }
    };
    ("decoders", Ok(held.into()))
}

#[cfg(not(feature = "video"))]
fn decoders() -> Check {
    ("decoders", Ok("none: this build decodes no videos".into()))
}

fn device() -> Check {
    let gpu = match Device::Cuda(0).check() {
        Ok(()) => "cuda:0 is there".to_string(),
        Err(why) => format!("no GPU: {why}"),
    };
    ("device", Ok(format!("auto is {}; {gpu}", Device::auto())))
}

/// Makes one game, if there is a library; to have none is no fault unless one was named.
fn games(games: &Games) -> Check {
    let package = match Package::find(&games.folders()) {
        Ok(package) => package,
        Err(none) if games.are_named() => return ("games", Err(told(&none))),
        Err(none) => return ("games", Ok(format!("none are played here: {}", told(&none)))),
    };
    let config = ProcgenConfig {
        game: Game::Maze,
        mode: Mode::Easy,
        levels: Levels::default(),
        seed: 0,
        count: 1,
        threads: 0,
    };
    let made = Procgen::new(&package, &config);
    (
        "games",
        made.map(|_| format!("Procgen's {} at {}", Game::ALL.len(), package.folder().display()))
            .map_err(|e| told(&e)),
    )
}

fn told(fault: &crate::envs::Error) -> String {
    fault.hint().map_or_else(|| fault.to_string(), |hint| format!("{fault}; {hint}"))
}

fn memory() -> Check {
    let state = match (memory_gib("MemAvailable:"), memory_gib("MemTotal:")) {
        (Some(free), Some(total)) if free < 1.0 => {
            Err(format!("{free:.1} of {total:.1} GiB free, expected at least 1"))
        }
        (Some(free), Some(total)) => Ok(format!("{free:.1} of {total:.1} GiB free")),
        _ => Ok("unknown on this system".into()),
    };
    ("memory", state)
}

/// What the system says of its memory under this name.
pub fn memory_gib(name: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / f64::from(1 << 20))
}

fn cores() -> Check {
    (
        "cores",
        std::thread::available_parallelism().map(|n| n.to_string()).map_err(|e| e.to_string()),
    )
}

/// Creates a file, finds that it cannot be created twice, and deletes it.
fn storage(workspace: &str, access: &Access) -> Check {
    let probe = || -> std::result::Result<String, crate::dataset::Error> {
        let store = Store::open_with(workspace, access)?;
        let path = format!("doctor/{}", crate::executor::local::fresh_id());
        store.create(&path, b"one")?;
        let twice = store.create(&path, b"two")?;
        store.delete_all("doctor")?;
        Ok(match twice {
            crate::dataset::Created::Exists => {
                format!("{workspace} can be written, and creates each file once")
            }
            crate::dataset::Created::New => {
                format!("{workspace} overwrites files: two runs at once are not safe there")
            }
        })
    };
    ("storage", probe().map_err(|e| e.to_string()))
}
