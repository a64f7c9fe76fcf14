"""SAE models: settings, selection rules, decoders, input scaling, folding, and files."""

from saebook.models.architectures import ARCHITECTURES, Architecture, calibrate_threshold
from saebook.models.config import Objective, SAEConfig
from saebook.models.decoders import DECODERS, Decoder
from saebook.models.files import load_sae, save_sae
from saebook.models.folding import fold_decoder_norms, fold_scaling
from saebook.models.forward import Forward
from saebook.models.sae import SAE
from saebook.models.scaling import SCALINGS, InputScaling
from saebook.models.selecting import Selecting, select_among_all

__all__ = [
    "ARCHITECTURES",
    "DECODERS",
    "SAE",
    "SCALINGS",
    "Architecture",
    "Decoder",
    "Forward",
    "InputScaling",
    "Objective",
    "SAEConfig",
    "Selecting",
    "calibrate_threshold",
    "fold_decoder_norms",
    "fold_scaling",
    "load_sae",
    "save_sae",
    "select_among_all",
]
