package chart_test

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

// Each example makes objects that fit each other and the server.
func TestExamples(t *testing.T) {
	for _, file := range examples(t) {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			v := values(t, file, nil)
			r := install(t, v, true)
			checkSelectors(t, r)
			checkPorts(t, r)
			checkProbes(t, r, v["probes"].(map[string]any)["rootPerPod"] == true)
			checkMounts(t, r)
			checkSecurity(t, r)
			checkEnding(t, r)
			checkFiles(t, r)
			checkEgress(t, r)
		})
	}
}

// checkSelectors: what selects pods selects those of the deployment, and what
// names it has its name.
func checkSelectors(t *testing.T, r *release) {
	pod := labels.Set(r.deployment.Spec.Template.Labels)
	selectors := map[string]map[string]string{
		"deployment":     r.deployment.Spec.Selector.MatchLabels,
		"service":        r.service.Spec.Selector,
		"network policy": r.network.Spec.PodSelector.MatchLabels,
	}
	if r.pdb != nil {
		selectors["pod disruption budget"] = r.pdb.Spec.Selector.MatchLabels
	}
	for _, c := range r.deployment.Spec.Template.Spec.TopologySpreadConstraints {
		selectors["topology "+c.TopologyKey] = c.LabelSelector.MatchLabels
	}
	for name, s := range selectors {
		if len(s) < 2 || !labels.SelectorFromSet(s).Matches(pod) {
			t.Errorf("%s: selects %v, the pods have %v", name, s, pod)
		}
		if r.job != nil && labels.SelectorFromSet(s).Matches(labels.Set(r.job.Spec.Template.Labels)) {
			t.Errorf("%s: selects the pod of the job, too", name)
		}
	}
	if spread := r.deployment.Spec.Template.Spec.TopologySpreadConstraints; len(spread) != 2 || spread[0].MaxSkew != 1 || spread[1].WhenUnsatisfiable != corev1.ScheduleAnyway {
		t.Errorf("topology spread: %+v", spread)
	}
	replicas := r.deployment.Spec.Replicas
	if (r.hpa != nil) == (replicas != nil) {
		t.Errorf("replicas %v and a HorizontalPodAutoscaler: %v; want one of the two", replicas, r.hpa != nil)
	}
	if r.hpa != nil {
		if target := r.hpa.Spec.ScaleTargetRef; target.Kind != "Deployment" || target.APIVersion != "apps/v1" || target.Name != r.deployment.Name {
			t.Errorf("the HorizontalPodAutoscaler's target is %+v", target)
		}
		if cpu := r.deployment.Spec.Template.Spec.Containers[0].Resources.Requests.Cpu(); cpu.IsZero() {
			t.Error("a share of the requested CPU is the measure, and none is requested")
		}
	}
	if many := r.hpa != nil || *replicas > 1; many != (r.pdb != nil) {
		t.Errorf("more than one pod: %v; a PodDisruptionBudget: %v", many, r.pdb != nil)
	}
	if got := r.deployment.Spec.Template.Spec.ServiceAccountName; got != r.account.Name {
		t.Errorf("the pods' service account is %q, the one that is made %q", got, r.account.Name)
	}
}

// checkPorts: the port of the configuration is that of container, service, policy
// and probes.
func checkPorts(t *testing.T, r *release) {
	var config struct {
		Address string `json:"address"`
	}
	check(t, yaml.Unmarshal([]byte(r.config.Data["config.yaml"]), &config))
	_, port, err := net.SplitHostPort(config.Address)
	check(t, err)
	_, c := r.pod()
	if len(c.Ports) != 1 || c.Ports[0].Name != "https" || fmt.Sprint(c.Ports[0].ContainerPort) != port {
		t.Errorf("the server listens on %s, the container's ports are %+v", port, c.Ports)
	}
	if p := r.service.Spec.Ports; len(p) != 1 || p[0].TargetPort != intstr.FromString("https") || p[0].Port != 7373 {
		t.Errorf("the service's ports are %+v", p)
	}
	in := r.network.Spec.Ingress
	if len(in) != 1 || len(in[0].Ports) != 1 || *in[0].Ports[0].Port != intstr.FromString("https") {
		t.Errorf("the network policy lets in %+v", in)
	}
	for name, probe := range map[string]*corev1.Probe{"live": c.LivenessProbe, "ready": c.ReadinessProbe, "startup": c.StartupProbe} {
		if probe == nil || probe.Exec == nil || !slices.Contains(probe.Exec.Command, "--server=127.0.0.1:"+port) {
			t.Errorf("the probe %s asks elsewhere: %+v", name, probe)
		}
	}
}

// checkProbes: liveness depends on the process alone. Whether the root answers is
// asked at the start, so that a rolling update stops, or all the time.
func checkProbes(t *testing.T, r *release, rootPerPod bool) {
	_, c := r.pod()
	for name, want := range map[string]bool{"live": true, "startup": rootPerPod, "ready": !rootPerPod} {
		probe := map[string]*corev1.Probe{"live": c.LivenessProbe, "ready": c.ReadinessProbe, "startup": c.StartupProbe}[name]
		if live := slices.Contains(probe.Exec.Command, "--live"); live != want {
			t.Errorf("the probe %s has --live: %v", name, live)
		}
		if limit := fmt.Sprintf("--timeout=%ds", probe.TimeoutSeconds-1); !slices.Contains(probe.Exec.Command, limit) {
			t.Errorf("the probe %s is ended after %d s, and runs with %q", name, probe.TimeoutSeconds, probe.Exec.Command)
		}
	}
}

// checkMounts: each mount is of a volume, each volume is mounted, and no two
// mounts are at one place.
func checkMounts(t *testing.T, r *release) {
	spec, c := r.pod()
	var volumes, mounted, places []string
	for _, v := range spec.Volumes {
		volumes = append(volumes, v.Name)
	}
	for _, m := range c.VolumeMounts {
		mounted, places = append(mounted, m.Name), append(places, m.MountPath)
	}
	slices.Sort(volumes)
	slices.Sort(mounted)
	slices.Sort(places)
	if !slices.Equal(volumes, mounted) {
		t.Errorf("volumes are %q, mounted are %q", volumes, mounted)
	}
	if n := len(slices.Compact(places)); n != len(mounted) {
		t.Errorf("%d mounts at %d places", len(mounted), n)
	}
	if r.job != nil {
		job := r.job.Spec.Template.Spec
		if !reflect.DeepEqual(job.Volumes, spec.Volumes) || !reflect.DeepEqual(job.Containers[0].VolumeMounts, c.VolumeMounts) {
			t.Error("the job has other volumes or mounts than the gateway")
		}
	}
}

// checkSecurity: the pod is what the restricted Pod Security Standard allows, and
// its secrets are files for it alone.
func checkSecurity(t *testing.T, r *release) {
	spec, _ := r.pod()
	pods := []corev1.PodSpec{spec}
	if r.job != nil {
		pods = append(pods, r.job.Spec.Template.Spec)
	}
	for _, spec := range pods {
		s := spec.SecurityContext
		if !*s.RunAsNonRoot || *s.RunAsUser == 0 || *s.RunAsGroup == 0 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("the pod's security context is %+v", s)
		}
		if spec.HostNetwork || spec.HostPID || spec.HostIPC {
			t.Error("the pod shares a namespace with its host")
		}
		for _, c := range append(spec.InitContainers, spec.Containers...) {
			checkContainer(t, c)
		}
		checkSecretFiles(t, spec)
	}
}

func checkContainer(t *testing.T, c corev1.Container) {
	s := c.SecurityContext
	if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.Privileged != nil {
		t.Errorf("%s: the security context is %+v", c.Name, s)
	}
	if !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
		t.Errorf("%s: drops %q and adds %q", c.Name, s.Capabilities.Drop, s.Capabilities.Add)
	}
	if len(c.EnvFrom) > 0 {
		t.Errorf("%s: takes its environment from %+v", c.Name, c.EnvFrom)
	}
	for _, e := range c.Env {
		if e.ValueFrom != nil {
			t.Errorf("%s: %s comes from %+v", c.Name, e.Name, e.ValueFrom)
		}
	}
}

// checkSecretFiles: a user who is not root can read the secrets, and nobody else.
// Kubelet makes them root's; it gives them to fsGroup, and the group the right to
// read, or they stay root's, and mode and group of the process have to fit.
func checkSecretFiles(t *testing.T, spec corev1.PodSpec) {
	s := spec.SecurityContext
	files := slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil })
	if files == (s.FSGroup != nil) {
		t.Errorf("a volume with a key store: %v; fsGroup: %v. It would give a group rights to key records", files, s.FSGroup)
	}
	for _, v := range spec.Volumes {
		if v.Secret == nil {
			continue
		}
		mode := *v.Secret.DefaultMode
		readable := s.FSGroup != nil && *s.FSGroup == *s.RunAsGroup || mode&0o040 != 0 && slices.Contains(s.SupplementalGroups, 0)
		if !readable || mode&0o337 != 0 {
			t.Errorf("the files of %s have mode %#o, fsGroup %v, groups %v", v.Name, mode, s.FSGroup, s.SupplementalGroups)
		}
	}
}

// checkEnding: a pod that ends is no endpoint any more before it stops, has the
// time to drain, and no other is missing meanwhile.
func checkEnding(t *testing.T, r *release) {
	const drain = 10 // seconds: docs/operations.md, and shutdownTimeout of package gateway
	spec, c := r.pod()
	wait := c.Lifecycle.PreStop.Sleep.Seconds
	if wait < 1 || *spec.TerminationGracePeriodSeconds <= wait+drain {
		t.Errorf("%d s before SIGTERM and %d s of draining, and it is killed after %d s", wait, drain, *spec.TerminationGracePeriodSeconds)
	}
	s := r.deployment.Spec.Strategy
	if one := r.deployment.Spec.Replicas != nil && *r.deployment.Spec.Replicas == 1; one {
		if s.Type != "Recreate" {
			t.Errorf("one pod with a volume of its own is replaced by %s", s.Type)
		}
	} else if s.Type != "RollingUpdate" || s.RollingUpdate.MaxUnavailable.IntValue() != 0 || s.RollingUpdate.MaxSurge.IntValue() < 1 {
		t.Errorf("the strategy is %+v", s)
	}
	if r.pdb != nil && r.pdb.Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("a drain may take %v", r.pdb.Spec.MaxUnavailable)
	}
}

// checkFiles: each file that the configuration and the probes name is in a volume
// that is mounted, and where the volume says which files it has, is one of them.
func checkFiles(t *testing.T, r *release) {
	spec, c := r.pod()
	var config any
	check(t, yaml.Unmarshal([]byte(r.config.Data["config.yaml"]), &config))
	paths := filesIn(config)
	for _, arg := range append(c.Command, c.ReadinessProbe.Exec.Command...) {
		if _, file, ok := strings.Cut(arg, "="); ok && strings.HasPrefix(file, "/") {
			paths = append(paths, file)
		} else if strings.HasPrefix(arg, "/etc/") {
			paths = append(paths, arg)
		}
	}
	for _, e := range c.Env {
		if strings.HasPrefix(e.Value, "/") {
			paths = append(paths, e.Value)
		}
	}
	if len(paths) < 4 {
		t.Fatalf("only these files are named: %q", paths)
	}
	image := []string{"/usr/lib/"} // what is in the image
	for _, path := range paths {
		under := func(dir string) bool { return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") }
		mounted := slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return under(m.MountPath) })
		if !mounted && !slices.ContainsFunc(image, under) {
			t.Errorf("%s is in no volume of the pod", path)
		}
	}
	for _, v := range spec.Volumes {
		if v.ConfigMap != nil && (v.ConfigMap.Name != r.config.Name || r.config.Data["config.yaml"] == "") {
			t.Errorf("the configuration is %s, mounted is %s", r.config.Name, v.ConfigMap.Name)
		}
	}
	if !slices.Contains(c.Command, "--config=/etc/keygate/config/config.yaml") {
		t.Errorf("the command is %q", c.Command)
	}
	pin := strings.Contains(r.config.Data["config.yaml"], "pkcs11:")
	if remembers := slices.Contains(c.Command, "--pin-refused=/tmp/pin-refused"); remembers != pin {
		t.Errorf("a PIN: %v; a refusal is remembered: %v", pin, remembers)
	}
}

// filesIn returns the absolute paths in a configuration, without the policies',
// which are of the API.
func filesIn(v any) (paths []string) {
	switch v := v.(type) {
	case map[string]any:
		for key, item := range v {
			if key != "policy" && key != "api" && key != "prefix" {
				paths = append(paths, filesIn(item)...)
			}
		}
	case []any:
		for _, item := range v {
			paths = append(paths, filesIn(item)...)
		}
	case string:
		if strings.HasPrefix(v, "/") {
			paths = append(paths, v)
		}
	}
	return paths
}

// checkEgress: the network policy lets the gateway out to the ports of all
// servers that its configuration names, and to DNS.
func checkEgress(t *testing.T, r *release) {
	open := map[string]bool{}
	for _, rule := range r.network.Spec.Egress {
		for _, p := range rule.Ports {
			open[p.Port.String()] = true
		}
	}
	var config struct {
		KeyStore map[string]any `json:"keystore"`
		Root     map[string]any `json:"root"`
	}
	check(t, yaml.Unmarshal([]byte(r.config.Data["config.yaml"]), &config))
	want := append(portsIn(config.KeyStore), portsIn(config.Root)...)
	if config.KeyStore["fs"] == nil && len(want) == 0 {
		t.Fatal("no server is found in the configuration")
	}
	for _, port := range append(want, "53") {
		if !open[port] {
			t.Errorf("the network policy does not let out to port %s: %v", port, open)
		}
	}
}

// portsIn returns the ports of the URLs and of the host:port in a configuration;
// 443 for AWS.
func portsIn(v any) (ports []string) {
	switch v := v.(type) {
	case map[string]any:
		for key, item := range v {
			if key == "awskms" || key == "secretsmanager" {
				ports = append(ports, "443")
			}
			ports = append(ports, portsIn(item)...)
		}
	case []any:
		for _, item := range v {
			ports = append(ports, portsIn(item)...)
		}
	case string:
		if u, err := url.Parse(v); err == nil && u.Port() != "" {
			ports = append(ports, u.Port())
		} else if _, port, err := net.SplitHostPort(v); err == nil && port != "" && strings.Trim(port, "0123456789") == "" {
			ports = append(ports, port)
		}
	}
	return ports
}
