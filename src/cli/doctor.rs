//! `lapo doctor`: checks what this machine offers: decoders, devices, games, memory, storage.

use clap::Args as ClapArgs;

use super::flags::GameArgs;
use super::stdout::print;
use crate::build_info::build_info;
use crate::dataset::{Access, Created, Store};
use crate::envs::{Game, Levels, Mode, Procgen, ProcgenConfig, ProcgenPackage};
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::models::Device;

/// Arguments of `lapo doctor`.
#[derive(Debug, ClapArgs)]
pub struct DoctorArgs {
    /// Also test writing to this workspace
    #[arg(long)]
    pub workspace: Option<String>,
    #[command(flatten)]
    pub games: GameArgs,
}

/// The most common video codecs.
#[cfg(feature = "video")]
const CODECS: [&str; 8] = ["h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg"];

/// The name of a check, and what it found: `Err` if something necessary is missing.
type Check = (&'static str, Result<String, String>);

/// Prints a line per check. Fails if something necessary is missing.
pub fn run(args: &DoctorArgs, access: &Access) -> Result<()> {
    let mut checks = vec![video(), decoders(), device(), games(&args.games), memory(), cores()];
    checks.extend(args.workspace.as_deref().map(|workspace| storage(workspace, access)));
    let mut text = format!("lapo {}\n", build_info().short());
    let mut failed = 0;
    for (name, result) in checks {
        match result {
            Ok(found) => text += &format!("ok    {name}: {found}\n"),
            Err(problem) => {
                failed += 1;
                text += &format!("FAIL  {name}: {problem}\n");
            }
        }
    }
    print(&text)?;
    if failed > 0 {
        return Err(Error::Doctor(failed).into());
    }
    Ok(())
}

#[cfg(feature = "video")]
fn video() -> Check {
    let version = crate::video::libav_version();
    let missing = crate::video::missing_decoders(&CODECS);
    let found: Vec<&str> = CODECS.into_iter().filter(|codec| !missing.contains(codec)).collect();
    let mut text = format!("libav {version} decodes {} and more", found.join(", "));
    if !missing.is_empty() {
        text += &format!("; lacks {}", missing.join(", "));
    }
    text += if crate::video::writes_h264() {
        "; writes H.264"
    } else {
        "; cannot write videos: libx264 is missing"
    };
    ("video", Ok(text))
}

#[cfg(not(feature = "video"))]
fn video() -> Check {
    let text =
        "built without libav: cannot decode videos, but trains on and labels existing shards";
    ("video", Ok(text.into()))
}

/// Reports how isolated decoders are. Weak isolation is no failure, since many kernels lack the
/// mechanisms.
#[cfg(feature = "video")]
fn decoders() -> Check {
    let super::sandbox::Sandbox { files, network } = super::sandbox::probe();
    let text = match (files, network) {
        (true, true) => "see only the bytes of their video: no other file, network or secret",
        (true, false) => {
            "see no other file or secret; this kernel cannot deny the network (seccomp)"
        }
        (false, true) => "see no network or secret; this kernel cannot deny other files (Landlock)",
        (false, false) => {
            "see no secret; this kernel can deny neither files (Landlock) nor the network (seccomp)"
        }
    };
    ("decoders", Ok(text.into()))
}

#[cfg(not(feature = "video"))]
fn decoders() -> Check {
    ("decoders", Ok("none: built without libav".into()))
}

fn device() -> Check {
    let gpus = [Device::Cuda(0), Device::Vulkan(0)].map(|gpu| match (gpu.check(), gpu.name()) {
        (Ok(()), Some(name)) => format!("{gpu} is {name}"),
        (Ok(()), None) => format!("{gpu} is available"),
        (Err(why), _) => why.to_string(),
    });
    ("device", Ok(format!("auto is {}; {}", Device::auto(), gpus.join("; "))))
}

/// Creates one game, if a library is installed. A missing library is a failure only with
/// `--procgen`.
fn games(games: &GameArgs) -> Check {
    let package = match ProcgenPackage::find(&games.folders()) {
        Ok(package) => package,
        Err(error) if games.is_set() => return ("games", Err(with_hint(&error))),
        Err(error) => return ("games", Ok(format!("not installed: {}", with_hint(&error)))),
    };
    let config = ProcgenConfig {
        game: Game::Maze,
        mode: Mode::Easy,
        levels: Levels::default(),
        seed: 0,
        count: 1,
        threads: 0,
    };
    let result = Procgen::new(&package, &config)
        .map(|_| format!("{} games of Procgen in {}", Game::ALL.len(), package.folder().display()))
        .map_err(|error| with_hint(&error));
    ("games", result)
}

fn with_hint(error: &crate::envs::Error) -> String {
    error.hint().map_or_else(|| error.to_string(), |hint| format!("{error}; {hint}"))
}

fn memory() -> Check {
    let state = match (meminfo_gib("MemAvailable:"), meminfo_gib("MemTotal:")) {
        (Some(free), Some(total)) if free < 1.0 => {
            Err(format!("{free:.1} of {total:.1} GiB free, expected at least 1"))
        }
        (Some(free), Some(total)) => Ok(format!("{free:.1} of {total:.1} GiB free")),
        _ => Ok("unknown on this system".into()),
    };
    ("memory", state)
}

/// Returns a value of `/proc/meminfo` in GiB; `None` on other systems than Linux.
pub fn meminfo_gib(name: &str) -> Option<f64> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / f64::from(1 << 20))
}

fn cores() -> Check {
    let cores = std::thread::available_parallelism();
    ("cores", cores.map(|n| n.to_string()).map_err(|error| error.to_string()))
}

/// Tests whether a file can be created, and only once: commits depend on that.
fn storage(workspace: &str, access: &Access) -> Check {
    let probe = || -> Result<String, crate::dataset::Error> {
        let store = Store::open_with(workspace, access)?;
        // A fresh name: a file of an earlier check must not look like a second creation. No stage
        // can be named `probes`.
        let path = format!("probes/doctor-{}", crate::executor::local::fresh_id());
        store.create(&path, b"one")?;
        let twice = store.create(&path, b"two")?;
        store.delete(&path)?;
        Ok(match twice {
            Created::Exists => format!("{workspace} can be written, and creates each file once"),
            Created::New => {
                format!("{workspace} overwrites existing files: concurrent runs are unsafe there")
            }
        })
    };
    ("storage", probe().map_err(|error| error.to_string()))
}
