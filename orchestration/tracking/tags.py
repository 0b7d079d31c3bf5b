"""The tags of our runs in MLflow, by which they are found again. Metrics are named in `training/metrics.py`."""

from __future__ import annotations

ROLE, SWEEP, TRIAL = "effnet.role", "sweep", "trial"
"""The tag that tells a sweep's run from a trial's, and its two values."""
TRIAL_ID = "effnet.trial"
UID = "effnet.uid"
"""Of the MLflow experiment, the sweep's run and the registered model: whose they are. A name can come again."""
MODEL_URI = "effnet.model_uri"
OUTCOME, REASON = "outcome", "outcome.reason"
BEGAN = "effnet.began"
"""When a trial last began to run, in seconds since 1970; MLflow keeps the first time alone."""
EPOCHS = "effnet.epochs"
"""Of a trial that was extended: how many epochs it has now. Its parameter cannot be changed."""
STOP = "effnet.stop."
"""Of the MLflow experiment, followed by a trial's id: the user wants that trial to end."""
EXCHANGE = "pbt.exchange."
"""Of a trial's run, followed by a number: whose weights it has taken over, when, and what it has changed."""
DATA_DIGEST = "data.digest"
PREDICTED_SECONDS = "predicted.seconds"
"""Of a trial's run: what it was predicted to take, from its start to its end."""
# MLflow's own, which its web page shows.
RUN_NAME, PARENT_RUN, EXPERIMENT_KIND = "mlflow.runName", "mlflow.parentRunId", "mlflow.experimentKind"
