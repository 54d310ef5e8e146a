"""MLflow, filled from files: stages write records, and a sync replays them into a store.

No stage talks to MLflow, so that no server can stop or slow a run. A child process sends a live run
from the run's own files, and a sync sends the rest.
"""

from clip4vla.tracking.context import Context, Target
from clip4vla.tracking.record import Record, read_record, write_record
from clip4vla.tracking.sync import SyncReport, sync

__all__ = ["Context", "Record", "SyncReport", "Target", "read_record", "sync", "write_record"]
