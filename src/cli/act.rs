//! `lapo act`: answers frames with actions, over stdin and stdout or over a socket of this machine.
//!
//! | file | holds |
//! |---|---|
//! | `player` | the loaded networks: a frame of their size -> an answer |
//! | `frame` | a request's bytes -> a frame of the networks' size |
//! | `protocol` | requests and answers of one client |
//! | `listen` | the sockets, their clients one after the other |
//!
//! The guide's page on acting describes the protocol.

use std::path::PathBuf;

use clap::{ArgGroup, Args as ClapArgs};

use super::compute_args::set_threads;
use super::device_choice::{parse_devices, print_note};
use super::exit::Exit;
use super::flags::at_least_one;
use super::signals::stop_on_signals;
use crate::error::CommandError as Error;
use crate::error::Result;
use crate::models::gpu_failure::catch_gpu_failure;
use crate::stages::{self, Signal, Stop};
use frame::FrameReader;
use listen::Listener;
use player::Player;
use protocol::{Failure, Server};

mod frame;
mod listen;
mod player;
mod protocol;

/// Arguments of `lapo act`.
#[derive(Clone, Debug, ClapArgs)]
#[command(group = ArgGroup::new("network").args(["policy", "agent"]).required(true))]
pub struct ActArgs {
    /// Weights of a latent policy; `lapo files STAGE --all` prints their path
    #[arg(long, value_name = "FILE", requires = "decoder")]
    pub policy: Option<PathBuf>,
    /// Weights of a decoder of the policy's latent actions
    #[arg(long, value_name = "FILE", requires = "policy")]
    pub decoder: Option<PathBuf>,
    /// Weights of an agent, instead of a policy and a decoder
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// Listen on a socket instead of stdin: 127.0.0.1:PORT, [::1]:PORT or unix:PATH; port 0 takes
    /// a free one
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Width and height of the raw frames that clients send, such as 640x480
    /// [default: the network's frame size]
    #[arg(long, value_name = "WxH")]
    pub size: Option<String>,
    /// Draw actions at random: their probabilities are raised to the power of 1 / TEMPERATURE; 0
    /// takes the most likely one
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Also answer the latent action
    #[arg(long, conflicts_with = "agent")]
    pub latent: bool,
    /// Number of CPU cores to use [default: all]
    #[arg(long, value_parser = at_least_one())]
    pub threads: Option<usize>,
    /// Device for networks: auto, cpu, cuda:N or vulkan:N
    #[arg(long, default_value = "auto", env = "LAPO_DEVICE")]
    pub device: String,
}

/// Answers frames until the input ends or a signal arrives.
pub fn run(args: &ActArgs) -> Result<Exit> {
    let size = args.size.as_deref().map(frame::parse_size).transpose()?;
    let address = args.listen.as_deref().map(listen::parse_address).transpose()?;
    let device = parse_devices(&args.device, None, print_note)?[0];
    set_threads(args.threads)?;
    let stop = stop_on_signals(&[Signal::Interrupt, Signal::Terminate, Signal::User1])?;
    let served = catch_gpu_failure(device, || {
        let player = Player::load(args, &device)?;
        let frames = FrameReader { side: player.side(), raw: size };
        let mut server = Server { player, frames };
        match &address {
            Some(address) => Listener::bind(address)?.serve(&mut server, &stop),
            None => serve_stdin(&mut server, &stop),
        }
    });
    let failed = |source| stages::Error::Gpu { source, memory_cure: "choose another device" };
    served.map_err(failed)??;
    Ok(stop.signal().map_or(Exit::Done, Exit::Stopped))
}

fn serve_stdin(server: &mut Server, stop: &Stop) -> Result<()> {
    let (mut input, mut output) = (protocol::stdin(stop)?, std::io::stdout().lock());
    match server.serve(&mut input, &mut output) {
        Ok(()) => Ok(()),
        // A signal interrupts a read.
        Err(Failure::Read(_)) if stop.is_set() => Ok(()),
        Err(Failure::Read(source)) => Err(Error::Input { from: "stdin".into(), source }.into()),
        Err(Failure::Write(source)) => Err(Error::Output { to: "stdout".into(), source }.into()),
        Err(Failure::Network(error)) => Err(error.into()),
    }
}
