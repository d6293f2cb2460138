# The public names, grouped by task. `__init__.py` reads this file, and loads each name's module on first use.

# Walk a tree, and keep what matters
from .traversal import children as children
from .traversal import glob as glob
from .traversal import leaves as leaves
from .traversal import level as level
from .traversal import walk as walk
from .filters import filter_node_list as filter_node_list
from .filters import match_key as match_key
from .filters import match_path as match_path
from .filters import where as where
from .splitting import sample as sample
from .splitting import split as split

# Open a tree, and read committed records
from .opening import commit as commit
from .opening import open_root as open_root
from .models import Partition as Partition
from .models import Place as Place
from .scanning import partitions as partitions
from .scanning import scan as scan

# The tree through time
from .comparing import Change as Change
from .comparing import diff as diff
from .commits import Commit as Commit
from .revisions import history as history
from .revisions import transaction_of as transaction_of

# Stores beside the tree
from .sources import records as records
from .copying import PayloadCopy as PayloadCopy
from .copying import copy as copy
from .stores import Archive as Archive
from .stores import DirectoryEntry as DirectoryEntry
from .stores import DirectoryStore as DirectoryStore
from .stores import EntryStat as EntryStat
from .stores import LmdbStore as LmdbStore
from .stores import Store as Store
from .stores import StoredPayload as StoredPayload
from .stores import shuffled as shuffled
from .stores import token_batches as token_batches

# Stages one behind the other, and your own
from .composing import compose_left as compose_left
from .composing import pipe as pipe
from ._stage import stage as stage

# Detach, batch, process
from .models import NodeRecord as NodeRecord
from .models import ProcessResult as ProcessResult
from .models import Write as Write
from .snapshots import snapshot as snapshot
from .derived import Below as Below
from .payloads import PayloadHandle as PayloadHandle
from .buffering import chunked as chunked
from .buffering import chunked_by as chunked_by
from .buffering import chunked_bytes as chunked_bytes
from .gathering import gather as gather
from .joining import join as join
from .lifting import each as each
from .lifting import outputs as outputs
from .parallel import parallel_map as parallel_map
from .workers.info import WorkerInfo as WorkerInfo
from .workers.info import worker_info as worker_info
from .sampling import rng as rng
from .models import Failure as Failure

# Fold up the tree
from . import folds as folds
from .rollups import rollup as rollup
from .models import Accumulator as Accumulator

# Write
from .write_policies import FreshWritePolicy as FreshWritePolicy
from .write_policies import InlineWritePolicy as InlineWritePolicy
from .write_policies import MirrorWritePolicy as MirrorWritePolicy
from .write_policies import fresh as fresh
from .write_policies import inline as inline
from .write_policies import mirror as mirror
from .writing import delete as delete
from .writing import plan as plan
from .writing import write as write
from .models import MapReport as MapReport
from .models import WriteReport as WriteReport
from .leftovers import obsolete as obsolete
from .resuming import failures as failures
from .resuming import pending as pending
from .resuming import retry_failed as retry_failed
from .states import Status as Status
from .states import status as status
from .targets import InlineTarget as InlineTarget
from .targets import MirrorTarget as MirrorTarget
from .targets import NewDatabaseTarget as NewDatabaseTarget
from .targets import WriteTarget as WriteTarget

# Files in, tables out, and a look
from .file_models import FileFailure as FileFailure
from .file_models import IndexedFile as IndexedFile
from .file_models import IngestReport as IngestReport
from .indexing import index_files as index_files
from .ingest import ingest_files as ingest_files
from .loading import load_files_directory as load_files_directory
from .loading import load_files_folder as load_files_folder
from .loading import load_small_files_directory as load_small_files_directory
from .loading import load_small_files_folder as load_small_files_folder
from .tables.by_path import PathTable as PathTable
from .tables.by_path import table_by_path as table_by_path
from .export import node_list_to_dataframe as node_list_to_dataframe
from .export import to_arrow as to_arrow
from .export import to_dataframe as to_dataframe
from .export import to_parquet as to_parquet
from .export import to_rows as to_rows
from .export import tree_to_dataframe as tree_to_dataframe
from .serialization import load_from_file as load_from_file
from .serialization import save_to_file as save_to_file
from .summaries import RunSummary as RunSummary
from .summaries import run_summary as run_summary
from .views import TreeView as TreeView
from .views import progress as progress
from .views import show as show

# The object facade
from .pipeline import Pipeline as Pipeline
from .processors import PreparationSpec as PreparationSpec
from .processors import ProcessingSpec as ProcessingSpec
from .processors import SelectionSpec as SelectionSpec
from .processors import add_preparation_stage as add_preparation_stage
from .processors import add_processing_stage as add_processing_stage
from .processors import add_write_stage as add_write_stage
from .processors import build_node_process_pipeline as build_node_process_pipeline
from .processors import build_selection_pipeline as build_selection_pipeline
from .processors import node_process_cruncher as node_process_cruncher

# Errors
from .errors import ArgumentError as ArgumentError
from .errors import ArgumentTypeError as ArgumentTypeError
from .errors import CodecError as CodecError
from .errors import DamagedDatabaseError as DamagedDatabaseError
from .errors import DamagedStoreError as DamagedStoreError
from .errors import DetachError as DetachError
from .errors import ExistsError as ExistsError
from .errors import ForeignFileError as ForeignFileError
from .errors import LiveNodeError as LiveNodeError
from .errors import LotprocError as LotprocError
from .errors import MissingExtraError as MissingExtraError
from .errors import NoSuchKeyError as NoSuchKeyError
from .errors import NotPicklableError as NotPicklableError
from .errors import NotReadyError as NotReadyError
from .errors import OutOfViewError as OutOfViewError
from .errors import PatternError as PatternError
from .errors import PayloadError as PayloadError
from .errors import ProcessorError as ProcessorError
from .errors import ReadOnlyStoreError as ReadOnlyStoreError
from .errors import ReadOnlyTreeError as ReadOnlyTreeError
from .errors import ResultError as ResultError
from .errors import ServerError as ServerError
from .errors import StoreClosedError as StoreClosedError
from .errors import StoreFullError as StoreFullError
from .errors import StoreLockedError as StoreLockedError
from .errors import UncommittedError as UncommittedError
from .errors import WorkerDiedError as WorkerDiedError
from .errors import WorkerTimeoutError as WorkerTimeoutError
