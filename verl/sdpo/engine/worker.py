"""verl's actor/rollout/ref worker whose ref model is the self-teacher."""

import gc
from functools import partial

from omegaconf import DictConfig, open_dict
from tensordict import TensorDict

from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.sdpo.engine.distillation_engine import MODEL_TYPE
from verl.sdpo.engine.flops import ComputedFlops
from verl.sdpo.engine.layout import shares_prefixes
from verl.sdpo.engine.placement import teacher_stays
from verl.sdpo.engine.recorder import TokenRecorder
from verl.sdpo.engine.weights import make_teacher
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.device import get_torch_device
from verl.workers.engine_workers import TrainingWorker

ONE_TO_ALL = Dispatch.ONE_TO_ALL  # type: ignore[attr-defined]  # verl adds the members of this enumeration at run time


class SelfDistillationWorker(DetachActorWorker):
    """Worker of role `actor_rollout_ref`, or of `actor_rollout` where the teacher is no second model.

    It extends the worker that verl's `separate_async` needs, which can score with the weights of the rollout engine.
    """

    def __init__(self, config: DictConfig, *args, **kwargs):
        with open_dict(config.model):
            config.model.model_type = MODEL_TYPE
        super().__init__(config, *args, **kwargs)

    def ref_worker_cls(self, config):
        """Build the ref model's worker, in the place of verl's class; the model itself is built later."""
        worker = TrainingWorker(config=config)
        worker.engine.stays = partial(teacher_stays, self.config)
        return worker

    @register(dispatch_mode=ONE_TO_ALL)
    def init_model(self):
        super().init_model()
        actor_config = omega_conf_to_dataclass(self.config.actor)
        reference = self.ref.engine if self.ref is not None else None
        for engine in filter(None, (self.actor.engine, reference)):
            engine.shares_prefixes = shares_prefixes(actor_config.shared_prefix, engine.module)
        self.teacher = make_teacher(actor_config.self_distillation, reference, self.actor.engine)
        self.engine = self.actor.engine
        self.engine.set_up_distillation(actor_config, self.teacher)
        self.actor.flops_counter = ComputedFlops(self.engine)
        # All objects that exist by now stay. Otherwise Python's garbage collector would traverse all of them again, for
        # a quarter of a second in the middle of an update, whenever enough new objects exist.
        gc.collect()
        gc.freeze()

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def update_actor(self, data: TensorDict) -> TensorDict:
        recorder = self.engine.recorder = TokenRecorder()
        output = super().update_actor(data)
        recorder.write(data)
        # With param_offload the student's weights may still be on their way to the host (verl/utils/fsdp_utils.py:197).
        get_torch_device().synchronize()
        distance = self.teacher.after_training_step()
        if output is not None:
            tu.get(output, "metrics")["self_distillation/teacher_student_distance"] = [distance]
        return output

    @register(dispatch_mode=ONE_TO_ALL)
    def refresh_teacher(self):
        self.teacher.restart()

    @register(dispatch_mode=ONE_TO_ALL)
    def save_checkpoint(self, local_path, hdfs_path=None, global_step=0, max_ckpt_to_keep=None):
        self.teacher.save(local_path, global_step)
        super().save_checkpoint(local_path, hdfs_path, global_step, max_ckpt_to_keep)

    @register(dispatch_mode=ONE_TO_ALL)
    def load_checkpoint(self, local_path, hdfs_path=None, del_local_after_load=False):
        super().load_checkpoint(local_path, hdfs_path, del_local_after_load)
        self.teacher.load(local_path)
