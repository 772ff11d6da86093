"""The Serve config that each `--engine` deploys, with its weights made and staged."""

from pathlib import Path
from typing import Any

from apps.common.progress_line import Progress
from apps.guard.keyfile import change_keys, make_key, utc_now
from emulation.hosts import config, cpu, hosts, model, staged, tpu_engine
from emulation.hosts.options import UpOptions
from emulation.hosts.record import StackRecord


def serve_config(options: UpOptions, progress: Progress, temp_dir: Path) -> dict[str, Any]:
    """The config for the chosen engine, with weights that are on this machine when it returns."""
    if options.engine == "sim":
        chosen_config = config.load(Path(options.config)) if options.config else config.emulated()
        emulated = config.with_port(chosen_config, options.port)
        return config.with_weights(emulated, *staged.stage_here(staged.stand_in(temp_dir), temp_dir))
    if options.engine == "tpu":
        return _tpu_config(options, progress, temp_dir)
    local = config.with_port(config.load(Path(options.config or config.LOCAL_CONFIG)), options.port)
    laptop = config.with_dtype(local, cpu.best_dtype(cpu.flags()))
    if options.engine == "cpu":
        laptop = config.with_slice(laptop, hosts.EMULATED)
    if options.model is None:
        progress.report("weights: Gemma 3 270M (converted once, then only checked)")
        weights = model.run_maker("emulation.hosts.laptop_weights", temp_dir / "weights.log")
        if options.engine == "cpu":
            progress.report("weights: staging them for the slice's hosts")
            return config.with_weights(laptop, *staged.stage_here(weights, temp_dir))
        return laptop
    progress.report(f"weights: {options.model}")
    chosen = model.chosen_model(options.model)
    own_template = config.has_chat_template(chosen.directory)
    return config.with_model(laptop, chosen.id, str(chosen.directory), own_template=own_template)


def _tpu_config(options: UpOptions, progress: Progress, temp_dir: Path) -> dict[str, Any]:
    tpu_engine.install_plugin(temp_dir)
    chosen = config.load(Path(options.config)) if options.config else config.emulated(tpu_engine=True)
    progress.report(f"weights: {tpu_engine.MODEL}, random (made once)")
    weights = model.run_maker("emulation.tpu.model", temp_dir / "weights.log")
    return config.with_weights(config.with_port(chosen, options.port), *staged.stage_here(weights, temp_dir))


def guarded(serve_config: dict[str, Any], keys_file: Path, temp_dir: Path) -> dict[str, Any]:
    """Add the guard, with a key of the stack's own, made here, for its test request."""
    text, id, entry = make_key({"name": "first-answer"}, utc_now())
    own_keys, own_key = temp_dir / "own-keys.json", StackRecord.own_key_in(temp_dir)
    change_keys(own_keys, lambda table: table.with_entry(id, entry))
    own_key.touch(0o600)
    own_key.write_text(text + "\n")
    return config.with_guard(serve_config, [keys_file.absolute(), own_keys])
