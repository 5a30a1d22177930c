// Package chart_test renders the chart with Helm's own engine and holds what comes
// out to what the server really needs: its configuration is checked by bin/keygate,
// and its probes are run against a bin/keygate that runs.
//
// KEYGATE names another program than bin/keygate.
package chart_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

const chartDir = "../keygate"

// A release is what the chart makes of values. What it does not make is nil.
type release struct {
	deployment *appsv1.Deployment
	config     *corev1.ConfigMap
	service    *corev1.Service
	account    *corev1.ServiceAccount
	hpa        *autoscalingv2.HorizontalPodAutoscaler
	pdb        *policyv1.PodDisruptionBudget
	network    *networkingv1.NetworkPolicy
	job        *batchv1.Job
	notes      string
}

// examples are the values files of the chart, by their names.
func examples(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(chartDir + "/examples/*.yaml")
	if err != nil || len(files) < 7 {
		t.Fatalf("%d examples (%v), want 7 or more", len(files), err)
	}
	return files
}

// values reads a values file and changes it by edit: a path with dots, and the
// value it gets.
func values(t *testing.T, file string, edits map[string]any) map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	check(t, err)
	var v map[string]any
	check(t, yaml.UnmarshalStrict(text, &v))
	for path, value := range edits {
		steps := strings.Split(path, ".")
		at := v
		for _, step := range steps[:len(steps)-1] {
			next, ok := at[step].(map[string]any)
			if !ok {
				next = map[string]any{}
				at[step] = next
			}
			at = next
		}
		at[steps[len(steps)-1]] = value
	}
	return v
}

// render renders the chart as "helm install" does, with the values checked by its
// schema.
func render(v map[string]any, install bool) (map[string]string, error) {
	c, err := loader.Load(chartDir)
	if err != nil {
		return nil, err
	}
	capabilities := *chartutil.DefaultCapabilities
	options := chartutil.ReleaseOptions{Name: "kg", Namespace: "keys", Revision: 1, IsInstall: install, IsUpgrade: !install}
	all, err := chartutil.ToRenderValues(c, v, options, &capabilities)
	if err != nil {
		return nil, err
	}
	e := engine.Engine{Strict: true}
	return e.Render(c, all)
}

// install renders the chart and decodes each object strictly, as the API server
// does with fieldValidation=Strict.
func install(t *testing.T, v map[string]any, first bool) *release {
	t.Helper()
	files, err := render(v, first)
	check(t, err)
	r := new(release)
	for name, text := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			r.notes = text
			continue
		}
		if strings.TrimSpace(text) == "" {
			continue
		}
		var kind struct {
			Kind string `json:"kind"`
		}
		check(t, yaml.Unmarshal([]byte(text), &kind))
		if err := yaml.UnmarshalStrict([]byte(text), r.place(t, kind.Kind)); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
	}
	return r
}

// place returns where an object of a kind belongs.
func (r *release) place(t *testing.T, kind string) any {
	t.Helper()
	switch kind {
	case "Deployment":
		return set(&r.deployment)
	case "ConfigMap":
		return set(&r.config)
	case "Service":
		return set(&r.service)
	case "ServiceAccount":
		return set(&r.account)
	case "HorizontalPodAutoscaler":
		return set(&r.hpa)
	case "PodDisruptionBudget":
		return set(&r.pdb)
	case "NetworkPolicy":
		return set(&r.network)
	case "Job":
		return set(&r.job)
	}
	t.Fatalf("an object of kind %q", kind)
	return nil
}

func set[T any](p **T) *T {
	*p = new(T)
	return *p
}

// pod returns the pod of the deployment, and its one container.
func (r *release) pod() (corev1.PodSpec, corev1.Container) {
	spec := r.deployment.Spec.Template.Spec
	return spec, spec.Containers[0]
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
