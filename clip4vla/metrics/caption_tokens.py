"""The two tokenisations under which caption scores are reported (facts 8.4).

`ptb` is the standard: Stanford's Penn Treebank tokenizer, lower case, no punctuation, as in the
COCO evaluation. `whitespace` is that of the released code (nlg-eval): words between blanks, after
references went through CLIP's tokenizer and back, which makes them lower case and separates
punctuation marks. Scores under the two differ by points and must not be compared.
"""

from pathlib import Path

import pycocoevalcap
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS, STANFORD_CORENLP_3_4_1_JAR

from clip4vla.common.clip_tokenizer import clip_tokenizer
from clip4vla.metrics.java import java

PACKAGE = Path(next(iter(pycocoevalcap.__path__)))
TOKENIZER = PACKAGE / "tokenizer" / STANFORD_CORENLP_3_4_1_JAR
Captions = dict[str, list[str]]  # clip id -> captions


def ptb(captions: Captions) -> Captions:
    """Return captions as lower-case PTB tokens without punctuation, joined by blanks."""
    lines = [words(caption) for many in captions.values() for caption in many]
    command = ["-cp", str(TOKENIZER), "edu.stanford.nlp.process.PTBTokenizer"]
    with java([*command, "-preserveLines", "-lowerCase"]) as running:
        output, _ = running.process.communicate("\n".join(lines) + "\n")
        tokens = output.split("\n")[: len(lines)]
        if running.process.returncode or len(tokens) != len(lines):
            where = f"after {len(tokens)} of {len(lines)} captions"
            raise running.failure("the PTB tokenizer", where, output)
    clean = iter(" ".join(w for w in line.split() if w not in PUNCTUATIONS) for line in tokens)
    return {clip: [next(clean) for _ in many] for clip, many in captions.items()}


def retokenised(captions: Captions) -> Captions:
    """Return captions after CLIP's tokenizer and back: lower case, punctuation marks as words."""
    tokenizer = clip_tokenizer()

    def again(caption: str) -> str:
        return words(tokenizer.decode(tokenizer.encode(caption)))

    return {clip: [again(caption) for caption in many] for clip, many in captions.items()}


def words(caption: str) -> str:
    """Collapse whitespace, line breaks too, to single spaces."""
    return " ".join(caption.split())
