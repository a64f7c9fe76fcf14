"""LFADS: counts in, a dynamical system's initial state and inputs inferred, rates out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from saebook.baselines.lfads.cells import Drop, draw_weights, gru_step, keep, unit_rows
from saebook.baselines.lfads.config import LFADSConfig
from saebook.baselines.lfads.encoding import encode_plain, encode_side_by_side
from saebook.baselines.lfads.loop import LEAST_VARIANCE, Path, Start, Weights, run_fast, run_plain
from saebook.baselines.lfads.losses import kl_autoregressive, kl_normal


@dataclass(frozen=True)
class Posterior:
    """What the encoders make of counts.

    Parameters
    ----------
    mean, logvar
        [B, initial_dim]: normal distribution of the initial state's code.
    drive
        [T, B, 3 · controller_dim]: what the encoded counts send to the controller's gates; None
        without inferred inputs.
    """

    mean: Tensor
    logvar: Tensor
    drive: Tensor | None


@dataclass(frozen=True)
class Output:
    """What the generator makes of a draw.

    Parameters
    ----------
    log_rates
        [T, B, n_targets]: logarithms of expected spikes per bin.
    factors
        [T, B, n_factors].
    inputs
        [T, B, n_inputs]: the draw of inferred inputs.
    kl_initial, kl_inputs
        [B], nats: divergences of the posteriors from their priors.
    """

    log_rates: Tensor
    factors: Tensor
    inputs: Tensor
    kl_initial: Tensor
    kl_inputs: Tensor


class LFADSModel(nn.Module):
    """Latent factor analysis via dynamical systems.

    With counts x_t of a window, t = 1 … T::

        m₀, s₀ = affine(last states of a bidirectional GRU over x)    a code a ~ N(m₀, s₀²)
        g₀     = clip(affine(a), ±5)                                  generator's initial state
        e_t    = states of another bidirectional GRU; forward ones that end at t - lag, backward
                 ones that begin at t + lag
        c_t    = GRU([e_t, f_{t-1}], c_{t-1})                         controller
        u_t    ~ N(affine(c_t))                                       inferred inputs
        g_t    = GRU(u_t, g_{t-1})                                    generator
        f_t    = W g_t, rows of W of unit norm                        factors: the latents
        λ_t    = exp(V f_t + b)                                       spikes per bin

    Learned by minimising the Poisson negative log-likelihood of counts under λ, the divergence of
    a from N(·, 0.1) and of u from an AR(1) process, and the squares of recurrent weights.

    Parameters
    ----------
    config
        Sizes.
    n_units
        Units that the encoders see.
    n_targets
        Units whose rates are read out, those n_units first.
    seed
        Of the weights.

    References
    ----------
    Sussillo, Jozefowicz, Abbott and Pandarinath 2016, "LFADS" (arXiv 1608.06315). Pandarinath et
    al. 2018, Nature Methods 15, 805. Keshtkaran et al. 2022, Nature Methods 19, 1572 (AutoLFADS).
    Sedler and Pandarinath 2023, "lfads-torch" (arXiv 2309.01230).

    Examples
    --------
    >>> model = LFADSModel(LFADSConfig.tiny(), n_units=3, n_targets=5)
    >>> posterior = model.encode(torch.zeros(2, 7, 3))
    >>> model.decode(posterior, *model.noise(7, 2)).log_rates.shape
    torch.Size([7, 2, 5])
    """

    def __init__(self, config: LFADSConfig, n_units: int, n_targets: int, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        encoder, control, inputs = config.encoder_dim, config.controller_dim, config.n_inputs
        state = config.generator_dim
        # Without memory first: modules would else draw their weights from the global generator.
        with torch.device("meta"):
            self.initial_encoder = nn.GRU(n_units, encoder, bidirectional=True)
            self.initial_code = nn.Linear(2 * encoder, 2 * config.initial_dim)
            self.initial_state = nn.Linear(config.initial_dim, state)
            self.generator = nn.GRUCell(max(inputs, 1), state)
            self.factors = nn.Linear(state, config.n_factors, bias=False)
            self.readout = nn.Linear(config.n_factors, n_targets)
            if inputs:
                self.input_encoder = nn.GRU(n_units, encoder, bidirectional=True)
                self.controller = nn.GRUCell(2 * encoder + config.n_factors, control)
                self.input_code = nn.Linear(control, 2 * inputs)
        self.to_empty(device="cpu")
        draw_weights(self, torch.Generator().manual_seed(seed))
        self.prior_mean = nn.Parameter(torch.zeros(config.initial_dim))
        if inputs:
            self.controller_state = nn.Parameter(torch.zeros(control))
            tau, noise = (
                torch.tensor([value] * inputs).log()
                for value in (config.input_prior_tau, config.input_prior_variance)
            )
            self.prior_log_tau, self.prior_log_noise = nn.Parameter(tau), nn.Parameter(noise)

    def encode(self, x: Tensor, drop: Drop = keep) -> Posterior:
        """Posterior of the initial state, and what the controller gets, from counts [B, T, n_units]."""
        x = drop(x.transpose(0, 1))  # [T, B, n_units]
        encoders = [self.initial_encoder]
        if self.config.n_inputs:
            encoders.append(self.input_encoder)
        states = (encode_plain if x.is_cuda else encode_side_by_side)(x, encoders)  # [T, B, 2E]
        ends = torch.cat(
            [
                states[0][-1, :, : self.config.encoder_dim],
                states[0][0, :, self.config.encoder_dim :],
            ],
            dim=1,
        )
        mean, logvar = self.initial_code(drop(ends)).chunk(2, dim=1)
        logvar = (logvar.exp() + LEAST_VARIANCE).log()
        if not self.config.n_inputs:
            return Posterior(mean, logvar, None)
        lagged = drop(lag_both(states[1], self.config.input_lag))
        weight = self.controller.weight_ih[:, : lagged.shape[2]]
        drive = nn.functional.linear(lagged, weight, self.controller.bias_ih)
        return Posterior(mean, logvar, drive)

    def noise(
        self, n_bins: int, n: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Standard normal draws [n, initial_dim] and [n_bins, n, n_inputs]; 0 without generator."""
        device = self.prior_mean.device
        shapes = ((n, self.config.initial_dim), (n_bins, n, self.config.n_inputs))
        initial, inputs = (
            torch.zeros(shape, device=device)
            if generator is None
            else torch.randn(shape, generator=generator, device=device)
            for shape in shapes
        )
        return initial, inputs

    def decode(
        self, posterior: Posterior, initial_noise: Tensor, input_noise: Tensor, drop: Drop = keep
    ) -> Output:
        """Rates of the draw that this noise makes of the posterior.

        Parameters
        ----------
        posterior
            From :meth:`encode`.
        initial_noise, input_noise
            As :meth:`noise` gives them.
        drop
            Dropout, in training.

        Returns
        -------
        Output
        """
        code = posterior.mean + (0.5 * posterior.logvar).exp() * initial_noise
        # A GRU's states stay within ±c once they are there, so that one clip does for all bins.
        limit = self.config.state_clip
        state = self.initial_state(code).clamp(-limit, limit)
        if posterior.drive is None:
            states = self._run_alone(state, len(input_noise))
            kept = drop(states)
            inputs, kl_inputs = input_noise, torch.zeros_like(code[:, 0])
        else:
            masks = drop(torch.ones_like(state).expand(len(input_noise) + 1, -1, -1))
            states, inputs, mean, logvar = self._run(state, posterior.drive, input_noise, masks)
            kept = states * masks[1:]
            kl_inputs = kl_autoregressive(
                mean, logvar, inputs, self.prior_log_tau, self.prior_log_noise
            )
        factors = kept @ unit_rows(self.factors.weight).T  # [T, B, F]
        prior = self.prior_mean, code.new_tensor(self.config.initial_prior_variance).log()
        kl_initial = kl_normal(posterior.mean, posterior.logvar, *prior).sum(dim=1)
        return Output(self.readout(factors), factors, inputs, kl_initial, kl_inputs)

    def recurrent_square(self) -> Tensor:
        """Half the mean square of the recurrent weights, a 0-d tensor."""
        weights = [w.flatten() for name, w in self.named_parameters() if "weight_hh" in name]
        return 0.5 * torch.cat(weights).square().mean()

    def _run_alone(self, state: Tensor, n_bins: int) -> Tensor:
        """States [T, B, G] of a generator without inputs."""
        cell = self.generator
        still, weight = cell.bias_ih.expand(len(state), -1), cell.weight_hh.T
        states = []
        for _ in range(n_bins):
            state = gru_step(still, torch.addmm(cell.bias_hh, state, weight), state)
            states.append(state)
        return torch.stack(states)

    def _run(self, state: Tensor, drive: Tensor, noise: Tensor, masks: Tensor) -> Path:
        """Path of generator and controller from a state, masks [T + 1, B, G] of which 0 is its own."""
        generator, controller, code = self.generator, self.controller, self.input_code
        control = self.controller_state.expand(len(state), -1)
        start = Start(state, control, drive, noise, masks[:-1])
        # The controller sees factors, which are linear in the state: one product instead of two.
        n_encoded = controller.weight_ih.shape[1] - self.config.n_factors
        feedback = controller.weight_ih[:, n_encoded:] @ unit_rows(self.factors.weight)
        weights = Weights(
            feedback=feedback.T,
            control=controller.weight_hh.T,
            control_bias=controller.bias_hh,
            code=code.weight.T,
            code_bias=code.bias,
            given=generator.weight_ih.T,
            given_bias=generator.bias_ih,
            state=generator.weight_hh.T,
            state_bias=generator.bias_hh,
        )
        # The fast one keeps what gradients need, which takes memory.
        return (run_fast if torch.is_grad_enabled() else run_plain)(start, weights)


def lag_both(states: Tensor, lag: int) -> Tensor:
    """States of a bidirectional network that have not seen the bins around their own.

    Parameters
    ----------
    states
        [T, B, 2E]: forward states in the first half of columns, backward ones in the second.
    lag
        Bins by which forward states come later and backward ones earlier.

    Returns
    -------
    Tensor
        [T, B, 2E], 0 where no state has come yet.

    Examples
    --------
    >>> states = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])[:, None]
    >>> lag_both(states, 1)[:, 0].tolist()
    [[0.0, 20.0], [1.0, 30.0], [2.0, 0.0]]
    """
    if lag == 0:
        return states
    forward, backward = states.chunk(2, dim=2)
    lag = min(lag, len(states))
    gap = torch.zeros_like(forward[:lag])
    forward = torch.cat([gap, forward[: len(forward) - lag]])
    return torch.cat([forward, torch.cat([backward[lag:], gap])], dim=2)
