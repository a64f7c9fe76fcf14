"""Give dead latents a second start at examples that the living ones reconstruct badly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from saebook.models import SAE, Forward
from saebook.training.optimisers import reset_state

if TYPE_CHECKING:
    from saebook.training.config import TrainConfig

ROUNDING = 1e-9  # 0.3 / 0.1 is a little less than 3
# Encoder rows of resampled latents, against the mean norm of the living ones (Bricken et al.).
ENCODER_SHARE = 0.2
# Where only the k largest latents are active, short rows are never among them: of 18 dead latents of
# a TopK SAE 6 % came back at a fifth, 94 % at half. Longer rows disturb living latents more.
COMPETING_SHARE = 0.5
PER_LATENT = ("encoder_rows", "b_enc", "W_dec", "threshold", "r_mag", "b_mag")


@torch.no_grad()
def resample(
    sae: SAE, optimizer: torch.optim.Optimizer, forward: Forward, dead: Tensor, seed: int
) -> Tensor:
    """Point dead latents at badly reconstructed examples; living ones keep every number.

    Rows of the decoder become the centred targets of examples drawn with a probability in
    proportion to their squared error, at unit norm; those of the encoder the centred inputs, at
    a fifth of the living latents' mean norm, or half of it where they compete to be among the k
    largest; biases and thresholds begin anew, and the optimiser
    forgets the dead rows (Bricken et al. 2023, "Towards Monosemanticity", appendix on neuron
    resampling, with the error itself in place of its square).

    Parameters
    ----------
    sae
        The model, changed in place.
    optimizer
        Of its parameters.
    forward
        A pass on the batch that examples are drawn from.
    dead
        Booleans [d_sae].
    seed
        Of the draw.

    Returns
    -------
    Tensor
        How many were resampled, 0-d.
    """
    error = (forward.target_scaled - forward.reconstruction_scaled).square().sum(dim=-1)
    n_dead = int(dead.sum())
    if n_dead == 0 or n_dead == len(dead) or not bool(error.sum() > 0):
        return torch.zeros((), device=dead.device)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(error.cpu().double(), n_dead, True, generator=generator)
    drawn = drawn.to(dead.device)
    living_norm = sae.encoder_rows[~dead].norm(dim=1).mean()
    centred_input = forward.x_scaled - forward.x_scaled.mean(dim=0)
    share = COMPETING_SHARE if sae.config.selection.uses_k else ENCODER_SHARE
    sae.encoder_rows[dead] = F.normalize(centred_input[drawn], dim=1) * living_norm * share
    # Rows of an mlp decoder lead to its hidden layer, where examples have no direction.
    if sae.config.decoder == "linear":
        rows = F.normalize(forward.target_scaled[drawn] - forward.target_scaled.mean(dim=0), dim=1)
        norm = 1.0 if sae.config.decoder_norm == "unit" else sae.W_dec[~dead].norm(dim=1).mean()
        sae.W_dec[dead] = rows * norm
    # The mean input gives every resampled latent a pre-activation of zero.
    mean = forward.x_scaled.mean(dim=0)
    if sae.config.apply_b_dec_to_input:
        mean = mean - sae.b_dec
    sae.b_enc[dead] = -(sae.encoder_rows[dead] @ mean)
    if sae.config.architecture == "jumprelu":
        sae.threshold[dead] = ENCODER_SHARE * sae.threshold[~dead].mean()
    if sae.config.architecture == "gated":
        sae.r_mag[dead] = 0.0
        sae.b_mag[dead] = sae.b_enc[dead]
    for name, parameter in sae.named_parameters():
        if name in PER_LATENT:
            reset_state(optimizer, parameter, dead)
    return dead.sum()


def resampling_is_due(train: TrainConfig, step_number: int, n_steps: int) -> bool:
    """Whether dead latents are resampled after so many steps of a run.

    Examples
    --------
    >>> from saebook.training import TrainConfig
    >>> train = TrainConfig(resample_every=0.1, resample_until=0.3)
    >>> [step for step in range(1, 51) if resampling_is_due(train, step, n_steps=50)]
    [5, 10, 15]
    """
    every, until = train.resample_every, train.resample_until
    if every is None or step_number / n_steps > until + ROUNDING:
        return False

    def multiples(step: int) -> int:
        return int(step / n_steps / every + ROUNDING)

    return multiples(step_number) > multiples(step_number - 1)
