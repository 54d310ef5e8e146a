"""A checkpoint in mteb's evaluator, for its audio and video retrieval tasks (docs/share.md).

Clips are decoded, encoded and compared as an evaluation of this project does it, by the scorer of
the checkpoint's family, so mteb's numbers are those of `clip4vla evaluate` on the same clips.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clip4vla.common.device import autocast
from clip4vla.common.errors import UserError
from clip4vla.common.extras import require
from clip4vla.common.files import sha256_of_file
from clip4vla.common.log import log
from clip4vla.common.progress import track
from clip4vla.config.sections import Modality
from clip4vla.inference.features import text_features
from clip4vla.inference.gallery import compared
from clip4vla.inference.second_scores import SecondScores
from clip4vla.media.isolated import Crashed, Isolated, patience
from clip4vla.metrics.rescoring import candidates, candidates_first
from clip4vla.models.common.batch_features import Features, joined
from clip4vla.models.common.scorer import Scorer, SecondScorer
from clip4vla.models.family import family_of
from clip4vla.search.asked import first_piece
from clip4vla.search.embedder import load
from clip4vla.search.encoder import Encoder
from clip4vla.search.windows import Decoded, Finished, Piece

if TYPE_CHECKING:
    from datasets import Dataset
    from mteb import TaskMetadata
    from mteb.models import ModelMeta

COLUMNS: dict[str, Modality] = {"video": "vision", "audio": "audio"}  # mteb's name -> ours
NOTHING = Piece(number=0, start=0.0, end=0.0, jpegs=[], log_mel=None, thumbnail=b"")


class Model:
    """A checkpoint that `mteb.evaluate` takes: mteb's `SearchProtocol`.

    checkpoint: a file or an address, as `clip4vla.load` takes it. name: OWNER/NAME in mteb's
    results; default: the repository's, or `local/` and the name of the file. nonverbal_share: the
    type token, as of `Embedder.embed_audio`. rescore: candidates of each query that pairs are
    scored again for, of a family that does so. Raises UserError for what `clip4vla.load` refuses,
    for `rescore` of another family, and without mteb.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        *,
        name: str | None = None,
        device: str | torch.device | None = None,
        nonverbal_share: float | None = None,
        rescore: int | None = None,
    ):
        require("mteb", "clip4vla.mteb")
        self.embedder = load(checkpoint, device)
        self.rescore, self.name = rescore, name
        model = self.embedder.settings.model
        if rescore is not None and not model.rescores:
            raise UserError(
                f"rescore: a model of family {model.family} has no second scores. Fix: leave it out"
            )
        share = self.embedder.share_of_nb(nonverbal_share)
        self.encoder = Encoder(self.embedder, [share])
        self.corpus: Dataset | None = None

    @cached_property
    def mteb_model_meta(self) -> "ModelMeta":
        """Return what mteb files its results under: name, commit or sha256, and options."""
        from mteb.models import ModelMeta

        source, settings = self.embedder.source, self.embedder.settings
        assert source is not None, "set by `load`"
        repository, _, commit = (source.hub or "").removeprefix("hf://").partition("@")
        names = {modality: column for column, modality in COLUMNS.items()}
        options = {"nonverbal_share": self.encoder.shares[0], "rescore": self.rescore}
        return ModelMeta(
            loader=None,
            name=self.name or repository or f"local/{source.path.stem}",
            revision=commit or sha256_of_file(source.path),
            release_date=None,
            languages=["eng-Latn"],
            n_parameters=sum(p.numel() for p in self.embedder.model.parameters()),
            memory_usage_mb=None,
            max_tokens=settings.inputs.max_words,
            embed_dim=self.embedder.dim,
            license=None,
            open_weights=None,
            public_training_code=None,
            public_training_data=None,
            framework=["PyTorch"],
            similarity_fn_name=None,
            use_instructions=False,
            training_datasets=None,
            modalities=["text", *(names[modality] for modality in settings.modalities)],
            experiment_kwargs={key: x for key, x in options.items() if x is not None},
        )

    def index(self, corpus: "Dataset", **_: Any) -> None:
        """Keep the documents; `search` encodes them. See mteb's `SearchProtocol`."""
        self.corpus = corpus

    def search(
        self,
        queries: "Dataset",
        *,
        task_metadata: "TaskMetadata",
        top_k: int,
        top_ranked: dict[str, list[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Return the scores of the best documents of each query; see mteb's `SearchProtocol`.

        top_ranked: the documents to choose from, by query. Raises UserError for a task that this
        checkpoint cannot be scored on.
        """
        assert self.corpus is not None, "mteb calls `index` first"
        scores = self._scores(queries, self.corpus, task_metadata.name)  # [Q, N]
        documents = np.array(self.corpus["id"])
        place = {document: column for column, document in enumerate(documents)}
        found = {}
        for query, row in zip(queries["id"], scores, strict=True):
            columns = np.arange(len(row))
            if top_ranked is not None:
                columns = np.array([place[document] for document in top_ranked.get(query, [])], int)
            best = columns[np.argsort(-row[columns], kind="stable")[:top_k]]
            found[query] = dict(zip(documents[best].tolist(), row[best].tolist(), strict=True))
        return found

    def _scores(self, queries: "Dataset", documents: "Dataset", task: str) -> np.ndarray:
        """Return the scores [Q, N] of documents for queries."""
        asked, answers = _parts(queries), _parts(documents)
        settings = self.embedder.settings
        lacking = {COLUMNS.get(part) for part in asked | answers} - {None, *settings.modalities}
        if lacking:
            raise UserError(
                f"{task}: the checkpoint reads no {', '.join(map(str, lacking))}. Fix: choose "
                "another task"
            )
        if asked == {"text"} and "text" not in answers:
            return self._by_text(queries, documents, answers, to_clips=True)
        if answers == {"text"} and "text" not in asked:
            return self._by_text(documents, queries, asked, to_clips=False).T
        one_each = asked | answers == set(COLUMNS) and len(asked) == len(answers) == 1
        if one_each and settings.model.compares_modalities:
            return self._across(queries, documents)
        raise UserError(
            f"{task}: compares {'+'.join(sorted(asked))} with {'+'.join(sorted(answers))}, which "
            "this checkpoint has no score for. Fix: choose a task of texts with clips, or of "
            "sounds with pictures"
        )

    def _by_text(
        self, texts: "Dataset", clips: "Dataset", columns: set[str], to_clips: bool
    ) -> np.ndarray:
        """Return the scores [T, C] of texts and clips, as an evaluation makes them.

        columns: those of the clips. to_clips: whether clips are ranked for texts.
        """
        embedder = self.embedder
        model = embedder.settings.model
        modalities = [m for m in embedder.settings.modalities if m in map(COLUMNS.get, columns)]
        scorer = family_of(model.family).scorer(
            embedder.model, model, modalities, rescores=self.rescore is not None
        )
        asked = text_features(
            embedder.model,
            _texts(texts),
            embedder.settings.inputs.max_words,
            embedder.device,
            features_of=scorer.text_features,
        )
        answers = self._clip_features(clips, modalities, scorer)
        by_name = compared(scorer, asked, answers, scale=1.0, device=embedder.device)
        first = by_name["t_va" if len(modalities) == 2 else f"t_{modalities[0][0]}"]
        if self.rescore is None:
            return first
        assert isinstance(scorer, SecondScorer), "its family rescores"
        top = self.rescore
        chosen = candidates(first, top) if to_clips else candidates(first.T, top).T
        second = SecondScores(scorer, asked, answers, embedder.device)
        every_text, every_clip = (np.ones(size, dtype=bool) for size in first.shape)
        return candidates_first(first, second.among(every_text, every_clip, chosen), chosen)

    def _across(self, queries: "Dataset", documents: "Dataset") -> np.ndarray:
        """Return the scores [Q, N] of sounds with pictures, each encoded without the other."""

        def alone(dataset: "Dataset") -> Features:
            (modality,) = (COLUMNS[part] for part in _parts(dataset))
            features = self._clip_features(dataset, [modality], self.encoder.ranker)
            return {modality: features[modality]}

        (scores,) = compared(
            self.encoder.ranker,
            queries=alone(queries),
            clips=alone(documents),
            scale=1.0,
            device=self.embedder.device,
        ).values()
        return scores

    @torch.no_grad()
    def _clip_features(
        self, clips: "Dataset", modalities: Sequence[Modality], scorer: Scorer
    ) -> Features:
        """Return the features of all clips by the scorer, and `has_audio` where some have none."""
        inputs = self.embedder.settings.inputs
        size = max(1, self.embedder.batch_size // (inputs.max_frames + inputs.max_segments))
        parts, pieces = [], []
        for piece in track(self._pieces(clips, modalities), "encode clips", total=len(clips)):
            pieces.append(piece)
            if len(pieces) == size:
                parts.append(self._encoded(pieces, modalities, scorer))
                pieces = []
        if pieces:
            parts.append(self._encoded(pieces, modalities, scorer))
        features = joined(parts)
        if features["has_audio"].all():
            features.pop("has_audio")
        return features

    def _encoded(
        self, pieces: Sequence[Piece], modalities: Sequence[Modality], scorer: Scorer
    ) -> Features:
        batch = self.encoder.batch(pieces, self.encoder.shares[0])
        with autocast(self.embedder.device, self.embedder.model):
            encoded = self.embedder.model.encode_clips(batch, modalities)
            features = scorer.clip_features(encoded)
        heard = torch.tensor([piece.log_mel is not None for piece in pieces])
        if "audio" not in modalities:
            heard = torch.ones_like(heard)
        return {name: x.cpu() for name, x in features.items()} | {"has_audio": heard}

    def _pieces(self, clips: "Dataset", modalities: Sequence[Modality]) -> Iterator[Piece]:
        """Yield each clip of a dataset, decoded from its files; an unreadable one is empty."""
        columns = {column: m for column, m in COLUMNS.items() if m in modalities}
        broken = 0
        with ExitStack() as stack:
            readers = {
                column: stack.enter_context(Isolated(self._reader(modality)))
                for column, modality in columns.items()
            }
            for number, row in enumerate(_undecoded(clips, [*columns])):
                found = NOTHING._replace(number=number)
                for column, reader in readers.items():
                    piece = _read(row[column], reader)
                    if isinstance(piece, Finished):
                        broken += 1
                        log.warning(f"{clips['id'][number]}: no {column} ({piece.problem})")
                    elif column == "video":
                        found = found._replace(jpegs=piece.jpegs)
                    else:
                        found = found._replace(log_mel=piece.log_mel)
                yield found
        if broken:
            log.warning(f"{broken} streams could not be decoded: those clips are scored without")

    def _reader(self, modality: Modality) -> Callable[[Path], Decoded]:
        return partial(first_piece, settings=self.embedder.settings, modalities=[modality])


def _read(stored: dict[str, Any], reader: Isolated) -> Decoded:
    """Decode a stored file: its own path, or its bytes."""
    with tempfile.TemporaryDirectory(prefix="clip4vla-mteb-") as folder:
        path = Path(folder, "clip")
        if stored["bytes"] is None:
            path = Path(stored["path"])
        else:
            path.write_bytes(stored["bytes"])
        try:
            return reader(path, patience(path))
        except (Crashed, OSError) as error:
            return Finished("", str(error))


def _parts(dataset: "Dataset") -> set[str]:
    """Return what a dataset of queries or documents consists of: text, video, audio, image."""
    return {"text", "image", *COLUMNS} & set(dataset.column_names)


def _texts(dataset: "Dataset") -> list[str]:
    """Return the texts of queries, or of documents after their title."""
    titles = dataset["title"] if "title" in dataset.column_names else [""] * len(dataset)
    return [
        f"{title or ''} {text}".strip() for title, text in zip(titles, dataset["text"], strict=True)
    ]


def _undecoded(dataset: "Dataset", columns: list[str]) -> "Dataset":
    """Return columns of files as they are stored: this project decodes them itself."""
    from datasets import Audio, Video

    for column in columns:
        feature = dataset.features[column]
        if not isinstance(feature, Audio | Video):
            raise UserError(
                f"column {column}: not files of sound or video, but {feature}. Fix: cast the "
                "column to datasets.Audio or datasets.Video"
            )
        dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset.select_columns(columns)
