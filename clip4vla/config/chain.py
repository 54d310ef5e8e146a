"""Build the chain of runs behind one row on one dataset, from pre-training to evaluation."""

from collections.abc import Callable
from typing import Literal

from clip4vla.config import keys
from clip4vla.config.data import DONORS_BY, AudioPolicy, Cache
from clip4vla.config.plan import WEIGHTS, Plan
from clip4vla.config.recipe import FinetuneRecipe, PretrainRecipe, Recipe, SecondStage
from clip4vla.config.run import (
    Evaluate,
    Finetune,
    HeldOut,
    Pretrain,
    Run,
    Source,
    Substitute,
    sources_of,
)
from clip4vla.config.sections import LABEL_TASKS, Decoding
from clip4vla.config.variant import Variant


def datasets_of(recipe: Recipe, dataset: str) -> list[str]:
    """Return the names of all datasets whose clips a row on `dataset` reads."""
    read = recipe.pretrain.read_sources if recipe.pretrain else []
    return [dataset, *(source.dataset for source in read)]


def policies(recipe: Recipe) -> tuple[AudioPolicy, AudioPolicy]:
    """Return a row's policies for silent clips in training and at test.

    A row without audio treats silent clips like all others, unless `filter` selects the clips with
    sound. `substitute_scope` concerns donors: policies without donors treat all splits alike.
    """
    policy = recipe.missing_audio
    if "audio" not in recipe.modalities and policy != "filter":
        policy = "none"
    left_out = policy in DONORS_BY and recipe.substitute_scope == "test"
    return "filter" if left_out else policy, policy


def add_chains(
    plan: Plan,
    recipe: Recipe,
    dataset: str,
    seeds: tuple[int | None, ...],
    variants: tuple[Variant, ...],
) -> list[str]:
    """Add the runs of a row on one dataset; return the keys of its evaluations, one per seed.

    seeds: of fine-tuning; None where nothing is trained.
    """

    def source(name: str, split: str, share: float | None, cache: Cache = recipe.cache) -> Source:
        return Source(
            dataset=plan.version_of[name],
            cache_id=keys.cache_id(cache),
            split=split,
            nonverbal_share=0.5 if share is None else share,  # read by no one, if None
        )

    def own(split: str) -> Source:
        return source(dataset, split, recipe.nonverbal_share)

    def add(run: Run) -> str:
        key = keys.run_key(run)
        plan.runs[key] = run
        for item in sources_of(run):
            plan.caches[item.dataset, item.cache_id] = run.cache
        return key

    for name in datasets_of(recipe, dataset):
        plan.versions[plan.version_of[name]] = name

    start = _add_pretraining(plan, recipe, source, add)
    train_policy, policy = policies(recipe)
    queries = [recipe.test]
    if recipe.finetune:
        queries += [split for split in (recipe.finetune.train, recipe.finetune.val) if split]
    policies_used = {policy, *(variant.missing_audio for variant in variants)}
    substitutions = {}  # by the space of the neighbours
    for neighbours in sorted({DONORS_BY[name] for name in policies_used if name in DONORS_BY}):
        substitutions[neighbours] = add(
            Substitute(
                start=start,
                queries=[own(split) for split in sorted(set(queries))],
                donors=own(recipe.donor_split),
                neighbours=neighbours,
                mean=recipe.donor_mean if neighbours == "vision" else "masked",
                cache=recipe.cache,
                model=recipe.model.towers(),
                inputs=recipe.inputs.without_draws(),
            )
        )

    def donors_for(*names: str) -> str | None:
        """Return the key of the substitution that these policies need, or None."""
        needed = {substitutions[DONORS_BY[name]] for name in names if name in DONORS_BY}
        return needed.pop() if needed else None

    def finetuned(tuning: FinetuneRecipe, seed: int | None) -> str:
        on_test = tuning.selection == "best_test_as_paper"
        return add(
            Finetune(
                seed=seed,
                start=start,
                task=recipe.task,
                modalities=recipe.modalities,
                train=own(tuning.train),
                val=own(tuning.val) if tuning.val else None,
                selection=tuning.selection,
                missing_audio=train_policy,
                substitution=donors_for(train_policy, *([policy] if on_test else [])),
                cache=recipe.cache,
                model=recipe.model,
                inputs=recipe.inputs,
                objective=tuning.objective,
                optimiser=tuning.optimiser,
                pad_loss=tuning.pad_loss,
                trainable=tuning.trainable,
                label_smoothing=tuning.label_smoothing,
                sampling=tuning.sampling,
                augment=tuning.augment,
                freeze=tuning.freeze,
                test=own(recipe.test) if on_test else None,
                test_missing_audio=policy if on_test else None,
                decoding=recipe.decoding if on_test else Decoding(),
            )
        )

    return [
        add(
            Evaluate(
                start=finetuned(recipe.finetune, seed) if recipe.finetune else start,
                task=recipe.task,
                modalities=recipe.modalities,
                query=recipe.query,
                test=own(recipe.test),
                missing_audio=policy,
                substitution=substitutions.get("vision"),
                text_substitution=substitutions.get("text"),
                cache=recipe.cache,
                model=recipe.model,
                inputs=recipe.inputs.without_draws(),
                decoding=recipe.decoding,
                test_frames=recipe.test_frames,
                rescore=recipe.rescore,
                class_names=recipe.task in LABEL_TASKS and recipe.finetune is None,
                variants=[*variants],
            )
        )
        for seed in seeds
    ]


def _held_out(plan: Plan, pretrain: PretrainRecipe) -> list[HeldOut]:
    """Return the held-out splits of all enabled datasets, since tables on any of them share it."""
    held_out = []
    for name, dataset in plan.config.datasets.items() if pretrain.leaks == "drop" else ():
        if dataset.enabled and dataset.held_out:
            version = plan.version_of[name]
            plan.listed[version] = name
            held_out.append(HeldOut(dataset=version, splits=sorted(set(dataset.held_out))))
    return sorted(held_out, key=lambda item: item.dataset)


def _add_pretraining(
    plan: Plan,
    recipe: Recipe,
    source: Callable[[str, str, float | None, Cache], Source],
    add: Callable[[Run], str],
) -> str | None:
    """Add the pre-training of a row.

    Return the key of its last run, or `weights:NAME`; None: fine-tuning starts from CLIP itself.
    """
    pretrain = recipe.pretrain
    if pretrain is None:
        return None
    model = recipe.model.in_pretraining(pretrain)
    # It reads no waveforms, and so is the same run whether or not the row's own clips have them.
    cache = recipe.cache.model_copy(update={"waveform": False})
    sources = [source(s.dataset, s.split, s.nonverbal_share, cache) for s in pretrain.sources]

    def add_stage(
        stage: PretrainRecipe | SecondStage, start: str | None, trainable: Literal["audio", "all"]
    ) -> str:
        return add(
            Pretrain(
                seed=pretrain.seed,
                sources=sources,
                cache=cache,
                model=model,
                inputs=pretrain.inputs,
                masking=pretrain.masking,
                objective=stage.objective,
                optimiser=stage.optimiser,
                trainable=trainable,
                freeze=stage.freeze,
                held_out=_held_out(plan, pretrain),
                start=start,
            )
        )

    if pretrain.initialise_from:
        start = WEIGHTS + pretrain.initialise_from
    else:
        start = add_stage(pretrain, None, pretrain.trainable)
    if second := pretrain.second_stage:
        start = add_stage(second, start, "all")
    return start
