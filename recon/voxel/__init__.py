"""Sparse voxel tensors: made from points, convolved by interchangeable backends, grouped for attention."""

from .backends import SPARSE_BACKENDS as SPARSE_BACKENDS
from .backends import backend_status as backend_status
from .backends import get_backend as get_backend
from .conv import DownConv as DownConv
from .conv import Rulebooks as Rulebooks
from .conv import SubMConv as SubMConv
from .conv import UpConv as UpConv
from .registry import build_backbone as build_backbone
from .registry import width_for as width_for
from .tensors import SparseVoxels as SparseVoxels
from .tensors import devoxelize as devoxelize
from .tensors import find_rows as find_rows
from .tensors import sample_trilinear as sample_trilinear
from .tensors import voxelize as voxelize
