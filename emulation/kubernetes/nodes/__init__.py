"""What a control plane on one machine lacks, played: nodes, kubelets, GKE's TPU webhook and its network devices."""
