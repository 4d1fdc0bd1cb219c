from launching import launch
import pathlib, sys
def test_fix(tiny_base, birds, classifier, adapter, class_names):
    import subprocess
    print(subprocess.run(["du","-ah",str(tiny_base)],capture_output=True,text=True).stdout)
    print(class_names, list(adapter.iterdir()))
def test_three(tmp_path, birds, classifier, adapter, tiny_base):
    for n in (1, 3):
        done = launch(["scripts/augment_dataset.py","--dataset_name",birds,"--output_dir",tmp_path/f"o{n}","--classifier",classifier,"--adapter",adapter,"--pretrained_model_name_or_path",tiny_base,"--resolution",32,"--rows_per_shard",4,"--num_inference_steps",4,"--num_candidates",5], n)
        print(n, done.returncode, done.stdout, done.stderr)
        assert done.returncode == 0
