"""Celery's settings.  PostgreSQL is the truth; what is tuned here is how fast a hint travels and how a
worker lives with a broker that stalls, restarts or forgets.
"""

from kombu import Queue

from medic import settings as settings_

_settings = settings_.current()

broker_url = _settings.need_redis_url()
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # a worker outlives any outage of the broker
broker_pool_limit = 20
broker_transport_options = {
    "visibility_timeout": 2 * max(_settings.step_timeout_cap, 1800),
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,  # the default looks for lost messages only every 100 s
    # Without time-outs a half-open connection wedges a worker for good.
    "socket_timeout": 5,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,
    # retry_on_timeout stays unset: it may run a command twice, and kombu's batches refuse it.
}
if _settings.broker_prefix:
    broker_transport_options["global_keyprefix"] = _settings.broker_prefix
if _settings.worker_pool:
    # What a pool runs is told apart by its own hash. All three, or none: with a shared index a worker of one pool
    # takes another's lost message off the index, misses it in its own hash, and the message is gone.
    broker_transport_options |= {
        key: f"{key.removesuffix('_key')}.{_settings.worker_pool}"
        for key in ("unacked_key", "unacked_index_key", "unacked_mutex_key")
    }

# A publish that fails is not lost: the row is due, and the sweep dispatches it.
task_publish_retry_policy = {"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.2}

task_acks_late = True
task_reject_on_worker_lost = True
task_retry_on_worker_lost = True  # bounds the loop of a message whose worker dies before the claim
task_ignore_result = True
result_backend = None
task_serializer = "json"
accept_content = ["json"]
timezone = "UTC"
enable_utc = True

task_default_queue = "medic.housekeeping"
task_create_missing_queues = False  # a typing error in a queue's name fails at once
task_queues = [
    Queue("medic.system"),
    Queue("medic.deliveries"),
    Queue("medic.steps"),
    Queue("medic.scripts"),
    Queue("medic.housekeeping"),
]

worker_prefetch_multiplier = 1
worker_disable_prefetch = True  # what a worker cannot run yet stays visible in the queue, for KEDA too
worker_cancel_long_running_tasks_on_connection_loss = False  # on Redis it strands the message
worker_max_tasks_per_child = 1000
worker_max_memory_per_child = 300_000
worker_hijack_root_logger = False
worker_redirect_stdouts = False
worker_send_task_events = True
task_send_sent_event = True

beat_scheduler = "medic_tasks.beat:Scheduler"  # in memory: the database knows what is due
beat_max_loop_interval = 1
beat_enable_remote_control = True
