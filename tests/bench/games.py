#!/usr/bin/env python3
"""Which Procgen games have good latent actions: records, trains and probes each game for equal CPU time, one row per game and player.

    games.py --out FOLDER [--minutes 5] [--players random sticky] [--games starpilot jumper] [--seeds 0]

Runs `pipelines/games.yaml`. Rows go to `tests/bench/results/games.csv`; games with a row for the same player, seed and minutes are left
out, so an interrupted table can be resumed. `ratio` is the linear probe over the share of the most common action: 1 is no better than
guessing. LAPO_PROCGEN names a virtual environment with Procgen. Needs PyYAML.
"""

from pipeline_runs import ROOT, append, arguments, has, pipeline, query, rounded, run, train, version

GAMES = ["bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot"]
GAMES += ["heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot"]


def row(args, game, player, seed):
    """Records and trains a game. Returns its row."""
    spec = pipeline("games.yaml", args.out / f"{game}-{player}-{seed}", seed, game=game, player=player, episodes=args.episodes)
    run(args, spec, "frames")
    trained = train(args, spec, "dynamics", "game")
    run(args, spec, "labels", "score")
    probe = query(args, spec, "SELECT guessing, linear, mlp FROM score")[0]
    frames = query(args, spec, "SELECT count(*) AS n FROM frames")[0]["n"]
    return dict(
        game=game, player=player, seed=seed, frames=frames, **trained,
        probe_linear=rounded(probe["linear"]), probe_mlp=rounded(probe["mlp"]), most_common_action=rounded(probe["guessing"]),
        ratio=rounded(probe["linear"] / probe["guessing"]), machine=args.machine,
        command=f"tests/bench/games.py --games {game} --players {player} --seeds {seed} --minutes {args.minutes:g} --threads {args.threads} --episodes {args.episodes}",
        commit=version(args),
    )


def main():
    parser = arguments(__doc__)
    parser.add_argument("--games", nargs="+", choices=GAMES, default=GAMES, metavar="GAME")
    parser.add_argument("--players", nargs="+", choices=["random", "sticky"], default=["random", "sticky"])
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.results or ROOT / "tests/bench/results/games.csv"
    for seed in args.seeds:
        for player in args.players:
            for game in args.games:
                if not has(results, game=game, player=player, seed=seed, minutes=f"{args.minutes:g}"):
                    append(results, row(args, game, player, seed))


if __name__ == "__main__":
    main()
