"""MLflow, filled from files: stages write records, one place replays them into a store.

No stage talks to MLflow, so a missing server never stops a run, and no two jobs write to one
store (engineering C.2, C.4).
"""

from clip4vla.tracking.record import Record, read_record, write_record
from clip4vla.tracking.sync import SyncReport, sync

__all__ = ["Record", "SyncReport", "read_record", "sync", "write_record"]
