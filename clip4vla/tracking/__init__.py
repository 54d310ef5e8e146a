"""MLflow, filled from files: stages write records, one place replays them into a store.

No stage talks to MLflow: a live run is fed by a child process from the run's own files, and what
that could not deliver a sync does. So no server can stop or slow a run.
"""

from clip4vla.tracking.context import Context, Target
from clip4vla.tracking.record import Record, read_record, write_record
from clip4vla.tracking.sync import SyncReport, sync

__all__ = ["Context", "Record", "SyncReport", "Target", "read_record", "sync", "write_record"]
