#!/usr/bin/env bash
# Trains on all machines of a TPU pod slice: bash launch/tpu_pod.sh --workdir=/DIR [options] [flags]
#
#   bash launch/tpu_pod.sh --workdir=/mnt/shared/vgg --zone=us-west4-a --type=v5litepod-16 --model=vgg16
#
# Runs one process on every worker; the processes find each other automatically. The workdir must be on a
# disk that all workers mount under the same path, because all of them write and read checkpoints.
#
#   --workdir=DIR      folder of the run, on the machine
#   --results=DIR      local folder for the fetched results; default: runs/<last part of the workdir>
#   --name=NAME        name of the machine; default: cnn-jax. An existing machine is reused
#   --type=TYPE        accelerator type; default: v5litepod-16
#   --zone=ZONE, --project=ID   default: the settings of gcloud
#   --version=NAME     version of the TPU software; default: v2-alpha-tpuv5-lite (v6e: v2-alpha-tpuv6e)
#   --spot             use cheaper machines that may be preempted at any time, with their disks lost
#   --tries=N          number of pods, or connections to them, until the training ends by itself;
#                      default: 1; with --spot 5
#   --create=OPTION    any other option of gcloud compute tpus queued-resources create; may be repeated
#   --keep             keep the machine (it costs money) when done
#   --help, --dry_run  print this text; print every gcloud command, but run none
#   other flags        passed to experiments/train.py
#
# Requires gcloud, logged in, with a project that may use TPUs. Requests or reuses the machines, copies the
# checkout, installs the package, trains, fetches the results, and deletes the machines, also after Ctrl-C.
# A training that was ended from outside (codes 75, 77, 134, 137 and 143 in docs/training.md, or no code)
# resumes on the next pod; one that ended by itself, well or not, is over.
#
# The exit code is that of the training, or 75 if all tries were in vain: the same command resumes. If the
# results cannot be fetched, the machines are kept, and the last line says so.
type=v5litepod-16 pod=true
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
source "$root/launch/tpu.sh"
