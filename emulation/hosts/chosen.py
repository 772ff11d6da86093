"""What the options of a start choose: the Serve config to deploy, with the weights that it needs."""

from pathlib import Path
from typing import Any

from apps.common.progress_line import Progress
from apps.guard.keyfile import change_keys, make_key, utc_now
from emulation.hosts import config, cpu, hosts, model, staged, tpu_engine
from emulation.hosts.options import UpOptions
from emulation.hosts.record import StackRecord


def serve_config_for(options: UpOptions, progress: Progress, temp_dir: Path) -> dict[str, Any]:
    """The Serve config to deploy, with its weights in place: made, fetched or staged first. `temp_dir` is the stack's own."""
    chosen_config = _guarded(_chosen_config(options), options, temp_dir)
    if options.engine == "tpu":
        tpu_engine.install_plugin(temp_dir)
        progress.report(f"weights: {tpu_engine.MODEL}, random (made once)")
        weights = model.run_maker("emulation.tpu.model", temp_dir / "weights.log")
        return config.with_weights(chosen_config, *staged.stage_here(weights, temp_dir))
    if options.engine == "sim":
        return config.with_weights(chosen_config, *staged.stage_here(staged.stand_in(temp_dir), temp_dir))
    serve_config = config.with_dtype(chosen_config, cpu.best_dtype(cpu.flags()))
    if options.engine == "cpu":
        serve_config = config.with_slice(serve_config, hosts.EMULATED)
    if options.model is None:
        progress.report("weights: Gemma 3 270M (converted once, then only checked)")
        weights = model.run_maker("emulation.hosts.laptop_weights", temp_dir / "weights.log")
        if options.engine == "cpu":
            progress.report("weights: staging them for the slice's hosts")
            return config.with_weights(serve_config, *staged.stage_here(weights, temp_dir))
        return serve_config
    progress.report(f"weights: {options.model}")
    chosen = model.chosen_model(options.model)
    own_template = config.has_chat_template(chosen.directory)
    return config.with_model(serve_config, chosen.id, str(chosen.directory), own_template=own_template)


def _guarded(serve_config: dict[str, Any], options: UpOptions, temp_dir: Path) -> dict[str, Any]:
    """Add the guard where keys are asked for, with a key of the stack's own, made here, for its test request."""
    if not options.keys:
        return serve_config
    text, id, entry = make_key({"name": "first-answer"}, utc_now())
    own_keys, own_key = temp_dir / "own-keys.json", StackRecord.own_key_in(temp_dir)
    with change_keys(own_keys) as keys:
        keys[id] = entry
    own_key.touch(0o600)
    own_key.write_text(text + "\n")
    return config.with_guard(serve_config, [Path(options.keys).absolute(), own_keys])


def _chosen_config(options: UpOptions) -> dict[str, Any]:
    if options.config:
        chosen = config.load(Path(options.config), direct_streaming=not options.classic)
    else:
        emulated = options.engine in ("sim", "tpu")
        chosen = config.emulated(tpu_engine=options.engine == "tpu") if emulated else config.own()
    return config.with_port(chosen, options.port)


def started_with(options: UpOptions) -> dict[str, str | None]:
    """What a second start must have in common with the first; of a config its content, which the user may have edited."""
    content = config.digest(Path(options.config)) if options.config else None
    return {"path": "classic" if options.classic else "direct", "engine": options.engine, "config": content}
