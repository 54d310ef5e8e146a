"""Sound as CLIP4VLA reads it: log-mels as the cache holds them, which it standardises itself."""

from clip4vla.loading.collate import collate
from clip4vla.loading.processor import ClipProcessor
from clip4vla.loading.samples import Sample


class LogMelProcessor(ClipProcessor):
    """Half the bytes move to the device, which computes what readers would."""

    def collate(self, samples: list[Sample]) -> dict:
        """See `clip4vla.loading.collate`."""
        return collate(samples, self.tokenize, raw_sound=True)
