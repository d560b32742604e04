"""Labels and annotations that our Kubernetes objects carry."""

PROJECT = "labcluster.internal/project"
USER = "labcluster.internal/user"
RUN = "labcluster.internal/run"
KIND = "labcluster.internal/kind"
QUEUE = "kueue.x-k8s.io/queue-name"
SUBMITTED = "labcluster.internal/submitted-at"
ATTEMPT = "labcluster.internal/attempt"
# The pods of a run on several nodes, which the Service `runs` of their project gives names to.
GANG = "labcluster.internal/gang"
PRIORITY = "kueue.x-k8s.io/priority-class"
# Kubernetes' own, on the pods of Jobs.
JOB_NAME = "batch.kubernetes.io/job-name"
JOB_UID = "batch.kubernetes.io/controller-uid"
RANK = "batch.kubernetes.io/job-completion-index"
# Which runs' records a Job delivers.
DELIVERS = "labcluster.internal/delivers"
